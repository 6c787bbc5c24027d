"""LION: the masked product is the two recurrences, however they are run."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.ops.bidirectional import _readers_decays
from jaxmodels.testing import relative_error
from tests.ops import draws

LENGTH = 13
KINDS = ["LIT", "D", "S"]
FORMS = ["quadratic", "recurrent", "associative", "chunked", "chunk_parallel"]


def drawn(kind, length=LENGTH):
  rng = np.random.default_rng(0)
  arguments = draws.linear_attention(None if kind == "LIT" else "head")(
    rng, length
  )
  del arguments["initial_state"]
  # Positive, as after a feature map: rows have a sum to divide by.
  for name in ("q", "k"):
    arguments[name] = np.abs(arguments[name])
  if kind == "D":
    arguments["log_decay"][:] = np.log([0.9, 0.5])
  return {name: x.astype(np.float32) for name, x in arguments.items()}


def results(op, arguments):
  y, pull_back = jax.vjp(lambda a: op(**a), arguments)
  cotangent = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
  return {"y": y, **pull_back(cotangent)[0]}


@functools.cache
def truth(kind, normalize, back=False):
  options = {"normalize": normalize, "segment_ids": ids(back)}
  op = functools.partial(reference.bidirectional, **options)
  with jax.enable_x64(True):
    exact = {k: np.float64(x) for k, x in drawn(kind).items()}
    found = jax.jit(functools.partial(results, op))(exact)
  return {k: np.asarray(x) for k, x in found.items()}


def ids(back=False):
  """Three documents in one row; the third has the id of the first."""
  numbers = [[0, 1, 0 if back else 2]]
  return np.repeat(numbers, [5, 7, 1], axis=1) * np.array([[1], [0]])


def cases():
  """By default each kind, and the forms token by token of one kind only."""
  for case in itertools.product(KINDS, FORMS, [False, True]):
    kind, method, normalize = case
    by_token = method in ("recurrent", "associative")
    often = normalize == (kind == "D") and not (by_token and kind != "S")
    yield pytest.param(*case, marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "method", "normalize"), list(cases()))
def test_every_form(kind, method, normalize):
  op = functools.partial(
    ops.bidirectional,
    method=method,
    chunk_size=4,
    normalize=normalize,
    segment_ids=jnp.asarray(ids()),
  )
  got = jax.jit(functools.partial(results, op))(drawn(kind))
  for name, wanted in truth(kind, normalize).items():
    assert relative_error(got[name], wanted) < 2e-5, name


@pytest.mark.parametrize("method", FORMS)
def test_ids_that_come_back_are_another_segment(method):
  op = functools.partial(
    ops.bidirectional,
    method=method,
    chunk_size=16,
    segment_ids=jnp.asarray(ids(back=True)),
  )
  got = jax.jit(op)(**drawn("LIT"))
  assert relative_error(got, truth("LIT", False, back=True)["y"]) < 2e-5


@pytest.mark.slow
def test_flipping_the_sequence_flips_the_output():
  arguments = drawn("S")
  y = ops.bidirectional(**arguments)
  flipped = {k: np.flip(x, 1) for k, x in arguments.items()}
  assert relative_error(np.flip(ops.bidirectional(**flipped), 1), y) < 1e-6


def test_the_mask_is_the_one_of_the_paper():
  """Three tokens, by hand: decays of the writer and of those between."""
  decay = np.array([0.5, 0.7, 0.3])
  one = np.ones((1, 3, 1, 1), np.float32)
  v = np.eye(3, dtype=np.float32)[None, :, None, :]
  log_decay = np.log(decay).astype(np.float32)[None, :, None]
  wanted = [[1, 0.7, 0.21], [0.5, 1, 0.3], [0.35, 0.7, 1]]
  for method in ("quadratic", "chunked"):
    op = jax.jit(functools.partial(ops.bidirectional, method=method))
    y = np.asarray(op(one, one, v, log_decay))
    np.testing.assert_allclose(y[0, :, 0], wanted, rtol=1e-6)


def test_decays_of_zero_and_no_tokens():
  arguments = drawn("S")
  arguments["log_decay"][:, 6] = -np.inf
  op = jax.jit(ops.bidirectional, static_argnames="method")
  full = op(**arguments, method="quadratic")
  y = op(**arguments, method="chunked")
  assert relative_error(y, full) < 2e-6
  none = {k: x[:, :0] for k, x in arguments.items()}
  assert op(**none).shape[1] == 0


def test_decays_cross_the_edges_of_shards():
  log_decay = drawn("S", 16)["log_decay"]
  mesh = jax.make_mesh(
    (4,), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    lambda x: _readers_decays(x, "sequence"),
    mesh=mesh,
    in_specs=P(None, "sequence"),
    out_specs=P(None, "sequence"),
  )
  whole = jax.jit(lambda x: _readers_decays(x, None))(log_decay)
  for got, wanted in zip(jax.jit(sharded)(log_decay), whole, strict=True):
    np.testing.assert_array_equal(got, wanted)


def test_wrong_arguments_are_named():
  arguments = drawn("S")
  for name, wrong in [
    ("q", arguments["q"][:, :-1]),
    ("log_decay", arguments["q"]),
    ("method", "fast"),
    ("floor", 0.0),
  ]:
    with pytest.raises(ValueError, match=f"{name} must be"):
      ops.bidirectional(**{**arguments, name: wrong})
