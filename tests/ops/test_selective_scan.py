"""The selective scan: its memory, its limits, and what matrix tests leave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.engine import checks
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 21
PARAMETERS = ("A", "D")


def drawn(length=LENGTH, seed=0):
  arguments = draws.selective_scan(np.random.default_rng(seed), length)
  return {k: jnp.asarray(x, jnp.float32) for k, x in arguments.items()}


def cut(arguments, start, stop, state):
  sequence = {
    k: x if k in PARAMETERS else x[:, start:stop]
    for k, x in arguments.items()
    if k != "initial_state"
  }
  return {**sequence, "initial_state": state}


def temporary_bytes(length, width=8, state=64, **options):
  """Of the compiled gradient of every argument."""

  def loss(arguments):
    y, _ = ops.selective_scan(**arguments, **options)
    return jnp.sum(y**2)

  shapes = {
    "x": (1, length, width),
    "dt": (1, length, width),
    "A": (width, state),
    "B": (1, length, state),
    "C": (1, length, state),
  }
  arguments = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in shapes.items()
  }
  program = jax.jit(jax.grad(loss)).lower(arguments).compile()
  return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_far_slower_than_all_states():
  short, long, width, state = 512, 2048, 32, 32
  all_states = (long - short) * width * state * 4
  measure = functools.partial(temporary_bytes, width=width, state=state)
  assert measure(long) - measure(short) < 0.5 * all_states
  # The measure can tell: this form does hold them.
  whole = {"method": "chunk_parallel", "chunk_size": 16}
  assert measure(long, **whole) - measure(short, **whole) > all_states


@pytest.mark.parametrize("at", [1, 8, 11])
def test_cut_and_continue(at):
  arguments = drawn()
  run = jax.jit(functools.partial(ops.selective_scan, chunk_size=8))
  y, last = run(**arguments)
  y1, middle = run(**cut(arguments, 0, at, arguments["initial_state"]))
  y2, end = run(**cut(arguments, at, LENGTH, middle))
  assert relative_error(jnp.concatenate([y1, y2], 1), y) < 1e-6
  assert relative_error(end, last) < 1e-6


def test_batch_axes_dtypes_and_no_tokens():
  arguments = drawn()
  y, last = compiled("selective_scan")(**arguments)
  many = {
    k: x if k in PARAMETERS else jnp.stack([x, x[::-1]])
    for k, x in arguments.items()
  }
  y2, last2 = compiled("selective_scan")(**many)
  assert relative_error(y2, jnp.stack([y, y[::-1]])) < 1e-6
  assert relative_error(last2, jnp.stack([last, last[::-1]])) < 1e-6
  state = arguments.pop("initial_state")
  narrow = {k: x.astype(jnp.bfloat16) for k, x in arguments.items()}
  y, last = compiled("selective_scan")(**narrow)
  assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
  y, last = compiled("selective_scan")(**cut(arguments, 0, 0, state))
  assert y.shape == (2, 0, 16)
  np.testing.assert_array_equal(last, state)


def test_reverse_is_the_flipped_sequence():
  arguments = drawn()
  flipped = {
    k: x if k in (*PARAMETERS, "initial_state") else jnp.flip(x, 1)
    for k, x in arguments.items()
  }
  y, last = compiled("selective_scan")(**arguments, reverse=True)
  y_flipped, last_flipped = compiled("selective_scan")(**flipped)
  assert relative_error(y, jnp.flip(y_flipped, 1)) < 1e-6
  assert relative_error(last, last_flipped) < 1e-6


def test_constant_projections_are_a_time_invariant_model():
  """With B, C and dt constant it is the convolution `C exp(dt A t) dt B`."""
  arguments = {k: np.asarray(x) for k, x in drawn().items()}
  del arguments["initial_state"], arguments["D"]
  for name in ("dt", "B", "C"):
    arguments[name] = np.broadcast_to(
      arguments[name][:1, :1], arguments[name].shape
    )
  dt, B, C = (arguments[k][0, 0] for k in ("dt", "B", "C"))
  t = np.arange(LENGTH)[:, None, None]
  kernel = np.exp(t * dt[:, None] * arguments["A"]) * dt[:, None] * B
  kernel = (kernel * C).sum(-1)
  x = arguments["x"]
  y = sum(
    np.pad(x, ((0, 0), (j, 0), (0, 0)))[:, :LENGTH] * kernel[j]
    for j in range(LENGTH)
  )
  assert relative_error(compiled("selective_scan")(**arguments)[0], y) < 1e-6


def test_wrong_arguments_are_named():
  arguments = drawn()
  for name, wrong, words in [
    ("dt", arguments["dt"][:, :-1], "dt must be"),
    ("A", arguments["A"].T, "A must be"),
    ("B", arguments["B"][..., :2], "B must be"),
    ("D", arguments["D"][:2], "D must be"),
  ]:
    with pytest.raises(ValueError, match=words):
      ops.selective_scan(**{**arguments, name: wrong})
  for options in ({"method": "fast"}, {"chunk_size": 12}):
    with pytest.raises(ValueError, match=next(iter(options))):
      ops.selective_scan(**arguments, **options)
  with checks.numerics(), pytest.raises(ValueError, match="dt must lie in"):
    ops.selective_scan(**{**arguments, "dt": -arguments["dt"]})
