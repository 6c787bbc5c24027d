import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.convolution import causal_convolution
from jaxmodels.ops.reference import local

BATCH, LENGTH, CHANNELS, WIDTH = 2, 13, 3, 4
RESETS = {
  "none": None,
  "at_0": np.array([[1] * 13, [0] * 7 + [1] * 6]),
  "middle": np.array([[0] * 2 + [1] * 1 + [2] * 10, [0] * 12 + [3]]),
  "back": np.array(
    [[0] * 4 + [1] * 2 + [0] * 5 + [-1] * 2, [3, 0, 3, 3, 0, 3, 3] + [0] * 6]
  ),
}

compiled = jax.jit(causal_convolution)


def draw(length=LENGTH, width=WIDTH, dtype=np.float32):
  rng = np.random.default_rng(0)
  shapes = (
    (BATCH, length, CHANNELS),
    (width, CHANNELS),
    (BATCH, width - 1, CHANNELS),
  )
  return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def definition(x, kernel, state, ids):
  outs = [
    local.causal_convolution(
      x[b],
      kernel,
      None if state is None else state[b],
      None if ids is None else ids[b],
    )
    for b in range(x.shape[0])
  ]
  return tuple(jnp.stack(parts) for parts in zip(*outs, strict=True))


def assert_close(got, wanted, tolerance):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    scale = np.abs(b).max() if b.size else 0.0
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale + 1e-12)


def value_and_gradients(function, arguments, cotangents):
  out, pull = jax.vjp(function, *arguments)
  return out, pull(
    jax.tree.map(lambda o, c: jnp.asarray(c, o.dtype), out, cotangents)
  )


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("method", ["chunk_parallel", "recurrent"])
@pytest.mark.parametrize("given", [False, True])
def test_values_and_gradients_are_the_definition_s(resets, method, given):
  ids = RESETS[resets]
  x, kernel, state = draw()
  arguments = (x, kernel, state) if given else (x, kernel)
  rng = np.random.default_rng(1)
  cotangents = (rng.normal(size=x.shape), rng.normal(size=state.shape))

  def fast(x, kernel, state=None):
    return causal_convolution(x, kernel, state, segment_ids=ids, method=method)

  def slow(x, kernel, state=None):
    return definition(x, kernel, state, ids)

  got = jax.jit(lambda: value_and_gradients(fast, arguments, cotangents))()
  with jax.enable_x64(True):
    exact = [np.asarray(a, np.float64) for a in arguments]
    wanted = jax.jit(functools.partial(value_and_gradients, slow))(
      exact, cotangents
    )
  assert_close(got, wanted, 2e-5)


def test_bfloat16_is_summed_in_float32():
  x, kernel, state = draw()
  low = [np.asarray(a, jnp.bfloat16) for a in (x, kernel)]
  y, final = compiled(*low, state)
  assert y.dtype == jnp.bfloat16
  assert final.dtype == jnp.float32
  # Only the rounding of the inputs (shared) and of y are left.
  exact = [np.asarray(a, np.float64) for a in low]
  with jax.enable_x64(True):
    wanted, _ = jax.jit(definition)(*exact, state.astype(float), None)
  assert_close(y, wanted, 4e-3)


@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 4])
def test_short_sequences(length, width):
  x, kernel, state = draw(length, width)
  y, final = map(np.asarray, compiled(x, kernel, state))
  span = np.concatenate([state, x], 1)
  for t in range(length):
    wanted = np.einsum("bwd,wd->bd", span[:, t : t + width], kernel)
    assert_close(y[:, t], wanted, 2e-5)
  assert_close(final, span[:, length:], 0)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 12])
def test_cut_anywhere_and_continue(cut):
  x, kernel, state = draw()
  ids = RESETS["middle"]
  whole = compiled(x, kernel, state, segment_ids=ids)
  first, middle = compiled(x[:, :cut], kernel, state, segment_ids=ids[:, :cut])
  # The second call counts from the segment that the state belongs to.
  base = ids[:, cut - 1 : cut] if cut else 0
  second, final = compiled(
    x[:, cut:], kernel, middle, segment_ids=ids[:, cut:] - base
  )
  assert_close((np.concatenate([first, second], 1), final), whole, 1e-6)


@pytest.mark.parametrize("resets", ["none", "middle", "back"])
def test_reverse_is_the_flipped_sequence(resets):
  x, kernel, state = draw()
  ids = RESETS[resets]
  flipped = None if ids is None else ids[:, -1:] - ids[:, ::-1]

  @jax.jit
  def both(x, kernel, state):
    y, final = definition(x[:, ::-1], kernel, state, flipped)
    got = causal_convolution(x, kernel, state, segment_ids=ids, reverse=True)
    return got, (y[:, ::-1], final)

  assert_close(*both(x, kernel, state), 2e-5)


def test_no_token_sees_the_future_or_another_segment():
  x, kernel, _ = draw()
  ids = np.array([0] * 5 + [1] * 8)

  def one(x):
    return causal_convolution(x, kernel, segment_ids=ids)[0][:, 0]

  seen = np.asarray(jax.jit(jax.jacobian(one))(x[0]))[..., 0] != 0
  for t in range(LENGTH):
    for s in range(LENGTH):
      wanted = 0 <= t - s < WIDTH and ids[t] == ids[s]
      assert seen[t, s] == wanted, (t, s)


def test_several_batch_axes():
  x, kernel, state = draw()
  stacked = np.stack([x, 2 * x])
  got = compiled(stacked, kernel, np.stack([state, 2 * state]))
  y, final = map(np.asarray, compiled(x, kernel, state))
  assert_close(got, (np.stack([y, 2 * y]), np.stack([final, 2 * final])), 1e-6)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (
      {"kernel": np.zeros((4, 5), np.float32)},
      "kernel must be .* got shape .4, 5.",
    ),
    (
      {"initial_state": np.zeros((2, 4, 3), np.float32)},
      "initial_state must be",
    ),
    ({"segment_ids": np.zeros((2, 12), np.int32)}, "segment_ids must be"),
    ({"x": np.zeros((2, 13, 3), np.int32)}, "x must be .* got dtype int32"),
    ({"method": "fft"}, "method must be one of .*got 'fft'"),
  ],
)
def test_wrong_calls_name_the_argument(change, match):
  x, kernel, _ = draw()
  with pytest.raises(ValueError, match=match):
    causal_convolution(**({"x": x, "kernel": kernel} | change))


def test_jit_under_vmap():
  x, kernel, state = draw()
  one = functools.partial(causal_convolution, segment_ids=None)
  got = jax.jit(jax.vmap(one, (0, None, 0)))(x, kernel, state)
  assert_close(got, compiled(x, kernel, state), 1e-6)
