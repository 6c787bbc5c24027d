"""Ops on arrays whose types carry their sharding: meshes of Explicit axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels import ops
from jaxmodels.ops.linear_attention import FAMILY, Tokens
from jaxmodels.testing import relative_error
from tests.ops import draws

LENGTH = 5
TOKENS, STATE = P("d", None, "h"), P("d", "h")
IDS = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 0, -1]], np.int32)
REPLICATED = P()


def attention_draw(rng, length):
  drawn = draws.qkv(rng, length)
  del drawn["initial_state"]
  return drawn


def cached_draw(rng, length):
  drawn = attention_draw(rng, length)
  keys, values = rng.standard_normal((2, 2, 3, 2, 8))
  cache = ops.Cache(keys, values[..., :6], np.ones((2, 3), bool))
  return {**drawn, "initial_state": cache}


def convolution_draw(rng, length):
  return {
    "x": rng.standard_normal((2, length, 6)),
    "kernel": rng.standard_normal((4, 6)),
    "initial_state": rng.standard_normal((2, 3, 6)),
  }


def long_draw(rng, length):
  return {
    "x": rng.standard_normal((2, length, 6)),
    "kernel": rng.standard_normal((4, 6)),
  }


def bidirectional_draw(rng, length):
  drawn = draws.linear_attention("head")(rng, length)
  del drawn["initial_state"]
  return drawn


def matrix(name, draw, **specs):
  """An op on heads with a state [B, H, ...]."""
  return getattr(ops, name), draw, specs, (TOKENS, STATE)


CHANNELS = {"x": TOKENS, "kernel": P(None, "h")}
CACHE = ops.Cache(TOKENS, TOKENS, P("d"))
# The op, its draw, the specs of arguments that are neither tokens [B, L, H,
# ...] nor a state [B, H, ...], and those of the results.
CASES = {
  "linear_attention": matrix(
    "linear_attention", draws.linear_attention("head")
  ),
  "delta_rule": matrix("delta_rule", draws.delta_rule("head")),
  "dplr_recurrence": matrix("dplr_recurrence", draws.dplr("key")),
  "normalized_linear_attention": matrix(
    "normalized_linear_attention", draws.normalized(gates=True)
  ),
  "householder_product": matrix(
    "householder_product",
    draws.householder("head"),
    **dict.fromkeys(("k", "v", "beta"), P("d", None, None, "h")),
  ),
  "make_op": (
    ops.make_op("mine", FAMILY, Tokens),
    lambda rng, length: {
      **draws.qkv(rng, length),
      "log_decay": draws.log_decay(rng, length, per_key=True),
    },
    {},
    (TOKENS, STATE),
  ),
  "diagonal_recurrence": (
    ops.diagonal_recurrence,
    lambda rng, length: jax.tree.map(
      lambda x: x[..., :4], draws.diagonal()(rng, length)
    ),
    {},
    (TOKENS, STATE),
  ),
  "dense_recurrence": (
    ops.dense_recurrence,
    draws.dense(),
    {"A": P("d"), "b": P("d"), "initial_state": P("d")},
    (P("d"), P("d")),
  ),
  "dense_recurrence, blocks": (
    functools.partial(ops.dense_recurrence, block_diagonal=True),
    draws.dense((2,)),
    {},
    (TOKENS, STATE),
  ),
  "selective_scan": (
    ops.selective_scan,
    draws.selective_scan,
    {"A": P("h"), "D": REPLICATED, "B": P("d"), "C": P("d")},
    (TOKENS, STATE),
  ),
  "causal_convolution": (
    ops.causal_convolution,
    convolution_draw,
    {**CHANNELS, "initial_state": TOKENS},
    (TOKENS, TOKENS),
  ),
  "long_convolution": (ops.long_convolution, long_draw, CHANNELS, TOKENS),
  "bidirectional": (ops.bidirectional, bidirectional_draw, {}, TOKENS),
  "attention": (ops.attention, attention_draw, {}, (TOKENS, CACHE)),
  "attention, window": (
    functools.partial(ops.attention, window=4),
    cached_draw,
    {"initial_state": CACHE},
    (TOKENS, CACHE),
  ),
}


def explicit(*axes):
  """A mesh of two by two devices, of JAX's default type."""
  return jax.make_mesh((2,) * len(axes), axes)


def drawn(draw, length=LENGTH):
  def narrow(x):
    return x if x.dtype == bool else x.astype(np.float32)

  return jax.tree.map(narrow, dict(draw(np.random.default_rng(0), length)))


def placed(mesh, arguments, specs):
  """The arguments on the mesh; tokens and states as they usually are."""

  def put(name, tree):
    usual = STATE if name == "initial_state" else TOKENS
    spec = jax.tree.broadcast(specs.get(name, usual), tree)
    return jax.tree.map(
      lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, spec
    )

  return {name: put(name, tree) for name, tree in arguments.items()}


def results(op):
  """The outputs, and the gradients of all arguments."""

  def floats(tree):
    return [x for x in jax.tree.leaves(tree) if x.dtype != bool]

  def evaluate(arguments):
    # Booleans, of a cache, have no gradient.
    flat, tree = jax.tree.flatten(arguments)
    at = [i for i, x in enumerate(flat) if x.dtype != bool]

    def loss(given):
      full = list(flat)
      for i, x in zip(at, given, strict=True):
        full[i] = x
      outputs = op(**jax.tree.unflatten(tree, full))
      return sum(jnp.sum(jnp.sin(y)) for y in floats(outputs)), outputs

    return jax.grad(loss, has_aux=True)([flat[i] for i in at])

  return evaluate


def specs_of(tree):
  """The spec of each leaf, without the axes that are not cut."""

  def spec(x):
    entries = list(jax.typeof(x).sharding.spec)
    while entries and entries[-1] is None:
      entries.pop()
    return P(*entries)

  return [spec(x) for x in jax.tree.leaves(tree)]


def assert_close(got, wanted):
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
  for a, b in leaves:
    assert relative_error(np.asarray(a), np.asarray(b)) < 2e-5


def check(name, method=None, ids=None):
  """On a mesh as without one, and results are cut as arguments are."""
  op, draw, specs, returns = CASES[name]
  if method is not None:
    op = functools.partial(op, method=method, chunk_size=4)
  if ids is not None:
    op = functools.partial(op, segment_ids=ids)
  arguments = drawn(draw)
  wanted = jax.jit(results(op))(arguments)
  mesh = explicit("d", "h")
  on_mesh = placed(mesh, arguments, specs)
  slopes, outputs = jax.jit(results(op))(on_mesh)
  assert_close((slopes, outputs), wanted)
  given = [x for x in jax.tree.leaves(on_mesh) if x.dtype != bool]
  assert specs_of(slopes) == specs_of(given)
  expected = jax.tree.broadcast(returns, outputs)
  assert specs_of(outputs) == jax.tree.leaves(expected)


@pytest.mark.parametrize("name", CASES)
def test_an_op_keeps_how_its_arguments_are_cut(name):
  check(name, ids=None if name == "long_convolution" else IDS)
