"""What every op promises besides its numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import OPS

LENGTH = 21  # Cut in 8 and 13, so that few programs serve many tests.
# A state of several arrays has tests of its own, in the test of the op.
SEVERAL = ("log_linear", "mesa", "normalized", "ttt")
NAMES = [
  name
  for name, record in OPS.items()
  if record.has_state and not name.startswith(SEVERAL)
]
# Another decay of the same op differs in its chunks alone, which the matrix
# compares by default.
VARIANTS = (
  "_no_decay",
  "_head_decay",
  "linear_attention",
  "delta_rule_key_decay",
  # Its state is a vector, as that of `dense_recurrence`.
  "signature",
)
each_op = pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      name, marks=pytest.mark.slow if name.endswith(VARIANTS) else ()
    )
    for name in NAMES
  ],
)


@functools.cache
def compiled(name, reverse=False):
  """One op, jitted once for all tests."""
  op = functools.partial(OPS[name].op, **OPS[name].options)
  return jax.jit(functools.partial(op, chunk_size=8, reverse=reverse))


def prepare(name, **options):
  """The op, jitted, and float32 arguments split in state and sequence."""
  record = OPS[name]
  cast = {
    k: np.asarray(x, np.complex64 if np.iscomplexobj(x) else np.float32)
    for k, x in record.arguments(LENGTH).items()
  }
  whole = {n: cast.pop(n) for n in record.whole}
  run = functools.partial(compiled(name, **options), **whole)
  return run, cast, cast.pop("initial_state")


def cut(sequence, start, stop):
  return {k: x[:, start:stop] for k, x in sequence.items()}


@each_op
@pytest.mark.parametrize("at", [8, 13])
def test_cut_and_continue(name, at):
  run, sequence, state = prepare(name)
  ids = np.repeat(np.array([[0, 1]], np.int32), [10, LENGTH - 10], 1)
  ids = np.repeat(ids, 2, 0)
  y, last = run(**sequence, initial_state=state, segment_ids=ids)
  y1, middle = run(
    **cut(sequence, 0, at), initial_state=state, segment_ids=ids[:, :at]
  )
  y2, end = run(
    **cut(sequence, at, LENGTH),
    initial_state=middle,
    segment_ids=ids[:, at:] - ids[:, at - 1 : at],
  )
  assert relative_error(np.concatenate([y1, y2], 1), y) < 1e-6
  assert relative_error(end, last) < 1e-6


@each_op
def test_one_token_at_a_time(name):
  run, sequence, state = prepare(name)
  ids = np.zeros((2, LENGTH), np.int32)
  y, last = run(**sequence, initial_state=state, segment_ids=ids)
  outputs = []
  for t in range(LENGTH):
    y_t, state = run(
      **cut(sequence, t, t + 1), initial_state=state, segment_ids=ids[:, :1]
    )
    outputs.append(y_t)
  assert relative_error(np.concatenate(outputs, 1), y) < 1e-6
  assert relative_error(state, last) < 1e-6


@each_op
def test_packed_equals_separate(name):
  run, sequence, state = prepare(name)
  ids = np.zeros((2, LENGTH), np.int32)
  ids[:, 13:] = 4
  state = np.zeros_like(state)
  packed, last = run(**sequence, initial_state=state, segment_ids=ids)
  (y1, _), (y2, alone) = (
    run(
      **cut(sequence, start, stop),
      initial_state=state,
      segment_ids=0 * ids[:, start:stop],
    )
    for start, stop in ((0, 13), (13, LENGTH))
  )
  assert relative_error(packed, np.concatenate([y1, y2], 1)) < 1e-6
  assert relative_error(last, alone) < 1e-6


@each_op
def test_nothing_comes_from_the_future_or_another_document(name):
  run, sequence, state = prepare(name)
  ids = np.zeros((2, LENGTH), np.int32)
  ids[:, 10:] = 1

  def output(sequence, state):  # Of one token, of the first row.
    y, _ = run(**sequence, initial_state=state, segment_ids=ids)
    return jnp.sum(jnp.abs(y[0, 15]))

  slopes = jax.jit(jax.grad(output, argnums=(0, 1)))
  by_token, by_state = slopes(sequence, state)
  for gradient in by_token.values():
    reach = np.abs(gradient).reshape(2, LENGTH, -1).max(-1)
    assert not reach[0, 16:].any() and not reach[0, :10].any()
    assert not reach[1].any()
  written = next(by_token[n] for n in ("v", "x", "b", "dx") if n in by_token)
  assert np.abs(written)[0, 10:16].any()
  assert not np.abs(by_state).any()


@each_op
def test_zero_is_the_default_state(name):
  run, sequence, state = prepare(name)
  y, last = run(**sequence)
  y0, last0 = run(**sequence, initial_state=np.zeros_like(state))
  np.testing.assert_array_equal(y, y0)
  np.testing.assert_array_equal(last, last0)


@each_op
def test_reverse_is_the_flipped_sequence(name):
  run, sequence, state = prepare(name)
  back, sequence_, _ = prepare(name, reverse=True)
  y, last = back(**sequence_, initial_state=state)
  flipped = {k: np.flip(x, 1) for k, x in sequence.items()}
  y_flipped, last_flipped = run(**flipped, initial_state=state)
  np.testing.assert_allclose(y, np.flip(y_flipped, 1), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(last, last_flipped, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if "complex" not in n])
def test_state_is_wide_and_output_narrow(name):
  run, sequence, _ = prepare(name)
  narrow = {k: x.astype(jnp.bfloat16) for k, x in sequence.items()}
  y, last = run(**narrow)
  assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
  with jax.enable_x64(True):
    wide = {k: np.asarray(x, np.float64) for k, x in sequence.items()}
    y, last = run(**wide)
    assert (y.dtype, last.dtype) == (jnp.float64, jnp.float64)


@each_op
def test_many_batch_axes_and_vmap(name):
  run, sequence, state = prepare(name)
  y, last = run(**sequence, initial_state=state)
  stack = jax.tree.map(lambda x: np.stack([x, x[::-1]]), (sequence, state))
  y, last = np.asarray(y), np.asarray(last)

  def call(sequence, state):
    return run(**sequence, initial_state=state)

  y2, last2 = jax.jit(jax.vmap(call))(*stack)
  assert relative_error(y2, np.stack([y, y[::-1]])) < 1e-6
  assert relative_error(last2, np.stack([last, last[::-1]])) < 1e-6
  if not name.startswith("diagonal"):
    y3, _ = call(*stack)
    assert relative_error(y3, y2) < 1e-6


@each_op
def test_no_tokens(name):
  run, sequence, state = prepare(name)
  y, last = run(**cut(sequence, 0, 0), initial_state=state)
  assert y.shape[1] == 0
  np.testing.assert_array_equal(last, state)


@each_op
def test_wrong_options_are_named(name):
  run, sequence, _ = prepare(name)
  for options, words in [
    ({"method": "fast"}, "method must be one of"),
    ({"chunk_size": 12}, "chunk_size must be a power of two, got 12"),
  ]:
    with pytest.raises(ValueError, match=words):
      run.func.__wrapped__(**sequence, **run.keywords, **options)


def test_an_op_without_a_kernel_says_so():
  _, sequence, _ = prepare("dense_recurrence_full")
  with pytest.raises(ValueError, match="no kernel"):
    ops.dense_recurrence(**sequence, method="pallas")
