import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.attention.attention import Cache, attention
from jaxmodels.ops.reference import local

BATCH, LENGTH, HEADS, GROUPS, KEY, VALUE, PAST = 2, 11, 4, 2, 3, 5, 4
RESETS = {
  "none": None,
  "at_0": np.array([[1] * 11, [0] * 7 + [1] * 4]),
  "middle": np.array([[0] * 2 + [1] * 1 + [2] * 8, [0] * 10 + [3]]),
  "back": np.array(
    [[0] * 4 + [1] * 2 + [0] * 3 + [-1] * 2, [3, 0, 3, 3, 0, 3, 3] + [0] * 4]
  ),
}


def draw(length=LENGTH, past=PAST):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=(BATCH, *shape)).astype(np.float32)

  arrays = (
    normal(length, HEADS, KEY),
    normal(length, GROUPS, KEY),
    normal(length, GROUPS, VALUE),
  )
  return arrays, (normal(past, GROUPS, KEY), normal(past, GROUPS, VALUE))


def cache_of(keys, values):
  return Cache(keys, values, np.ones(keys.shape[:2], bool))


def definition(q, k, v, window, keys, values, ids, size):
  """The definition with its state in the op's form: aligned right, padded."""
  outs = []
  for b in range(q.shape[0]):
    y, left_k, left_v = local.attention(
      q[b],
      k[b],
      v[b],
      window,
      None if keys is None else keys[b],
      None if values is None else values[b],
      None if ids is None else ids[b],
    )
    pad = ((size - left_k.shape[0], 0), (0, 0), (0, 0))
    outs.append((y, jnp.pad(left_k, pad), jnp.pad(left_v, pad)))
  return tuple(jnp.stack(parts) for parts in zip(*outs, strict=True))


def assert_close(got, wanted, tolerance):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    scale = np.abs(b).max() if b.size else 0.0
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale + 1e-12)


def gradients(function, arguments, cotangents):
  """Outputs, and the gradients by all arguments."""
  out, pull = jax.vjp(function, *arguments)
  return out, pull(
    tuple(jnp.asarray(c, o.dtype) for o, c in zip(out, cotangents, strict=True))
  )


def exact_gradients(window, arguments, ids, size, cotangents):
  def slow(q, k, v, keys=None, values=None):
    return definition(q, k, v, window, keys, values, ids, size)

  with jax.enable_x64(True):
    exact = [np.asarray(a, np.float64) for a in arguments]
    return jax.jit(functools.partial(gradients, slow))(exact, cotangents)


@pytest.mark.parametrize(
  ("window", "resets", "given"),
  [
    (None, "none", False),
    (None, "middle", True),
    (5, "middle", True),
    (5, "back", True),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [
        (None, "none", True),
        (None, "back", True),
        (None, "at_0", True),
        (1, "none", False),
        (1, "none", True),
        (1, "at_0", True),
        (1, "middle", True),
        (5, "at_0", True),
        (5, "none", False),
        (5, "none", True),
      ]
    ),
  ],
)
def test_values_and_gradients_are_the_definition_s(window, resets, given):
  ids = RESETS[resets]
  past = PAST if window is None else window - 1
  arrays, entering = draw(past=past)
  arguments = (*arrays, *entering) if given else arrays
  size = past if window else (past if given else 0) + LENGTH
  rng = np.random.default_rng(1)
  cotangents = [
    rng.normal(size=(BATCH, *shape))
    for shape in (
      (LENGTH, HEADS, VALUE),
      (size, GROUPS, KEY),
      (size, GROUPS, VALUE),
    )
  ]
  wanted = exact_gradients(window, arguments, ids, size, cotangents)

  forms = {"quadratic": None, "chunked": 4}
  if resets == "middle":
    forms["recurrent"] = None

  def fast(method, q, k, v, keys=None, values=None):
    y, left = attention(
      q,
      k,
      v,
      window,
      None if keys is None else cache_of(keys, values),
      segment_ids=ids,
      method=method,
      chunk_size=forms[method],
    )
    return y, left.k, left.v

  @jax.jit
  def all_forms():
    return {
      form: gradients(functools.partial(fast, form), arguments, cotangents)
      for form in forms
    }

  for got in all_forms().values():
    assert_close(got, wanted, 2e-5)


def test_bfloat16_is_summed_in_float32():
  arrays, _ = draw()
  low = [np.asarray(a, jnp.bfloat16) for a in arrays]
  y, state = jax.jit(attention)(*low)
  assert y.dtype == jnp.bfloat16
  assert state.k.dtype == jnp.float32
  with jax.enable_x64(True):
    exact = [np.asarray(a, np.float64) for a in low]
    wanted, *_ = jax.jit(
      lambda *arrays: definition(*arrays, None, None, None, None, LENGTH)
    )(*exact)
  # Only the rounding of y to bfloat16 is left.
  assert_close(y, wanted, 4e-3)


@pytest.mark.parametrize(
  ("window", "cuts"),
  [
    pytest.param(None, (1, 9), marks=pytest.mark.slow),
    pytest.param(1, (5,), marks=pytest.mark.slow),
    (3, (0, 5)),
    pytest.param(3, tuple(range(1, 11)), marks=pytest.mark.slow),
  ],
)
def test_cut_anywhere_and_continue(window, cuts):
  arrays, entering = draw(past=PAST if window is None else window - 1)
  ids = RESETS["middle"]
  attend = jax.jit(attention, static_argnums=3)
  whole, wanted = attend(*arrays, window, cache_of(*entering), segment_ids=ids)
  state, base, pieces = cache_of(*entering), 0, []
  for start, stop in zip((0, *cuts), (*cuts, LENGTH), strict=True):
    y, state = attend(
      *(a[:, start:stop] for a in arrays),
      window,
      state,
      segment_ids=ids[:, start:stop] - base,
    )
    pieces.append(y)
    base = ids[:, stop - 1 : stop] if stop else 0
  assert_close((np.concatenate(pieces, 1), state), (whole, wanted), 2e-6)


def test_the_cache_of_a_window_keeps_its_size_and_says_what_lives():
  arrays, _ = draw()
  ids = np.array([[0] * 11, [0] * 9 + [1] * 2])
  attend = jax.jit(attention, static_argnums=3)
  _, state = attend(*arrays, 5, segment_ids=ids)
  assert state.k.shape == (BATCH, 4, GROUPS, KEY)
  np.testing.assert_array_equal(
    state.live, [[True] * 4, [False, False, True, True]]
  )
  assert not np.asarray(state.k)[1, :2].any()
  # Shorter than the window: the rest of the cache is not live.
  _, short = attend(*(a[:, :1] for a in arrays), 5)
  live = np.asarray(short.live)[0]
  np.testing.assert_array_equal(live, [False, False, False, True])


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("resets", ["middle", "back"])
def test_reverse_is_the_flipped_sequence(window, resets):
  arrays, entering = draw(past=3)
  ids = RESETS[resets]
  flipped = ids[:, -1:] - ids[:, ::-1]
  size = 3 if window else 3 + LENGTH

  @jax.jit
  def both(arrays, entering):
    got, state = attention(
      *arrays, window, cache_of(*entering), segment_ids=ids, reverse=True
    )
    y, *rest = definition(
      *(a[:, ::-1] for a in arrays), window, *entering, flipped, size
    )
    return (got, state.k, state.v), (y[:, ::-1], *rest)

  assert_close(*both(arrays, entering), 2e-5)


@pytest.mark.parametrize("method", ["quadratic", "chunked"])
@pytest.mark.parametrize("window", [None, 3])
def test_no_token_sees_the_future_or_another_segment(method, window):
  arrays, _ = draw()
  q, k, v = (a[0] for a in arrays)
  ids = np.array([0] * 5 + [1] * 6)

  @jax.jit
  @jax.jacobian
  def influence(v):
    y, _ = attention(
      q, k, v, window, segment_ids=ids, method=method, chunk_size=4
    )
    return y[:, 0, 0]

  seen = np.asarray(influence(v)[..., 0, 0]) != 0
  for t in range(LENGTH):
    for s in range(LENGTH):
      wanted = 0 <= t - s < (window or LENGTH) and ids[t] == ids[s]
      assert seen[t, s] == wanted, (t, s)


def test_huge_scores_stay_finite():
  arrays, _ = draw()
  q, k, v = arrays

  def total(q, k, v):
    return attention(1e4 * q, k, v, 3)[0].sum()

  value, slopes = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)
  assert np.isfinite(value)
  assert all(np.isfinite(s).all() for s in slopes)


def test_no_tokens():
  arrays, entering = draw(length=0)
  y, state = attention(*arrays, 5, cache_of(*entering))
  assert y.shape == (BATCH, 0, HEADS, VALUE)
  np.testing.assert_array_equal(state.k, entering[0])
  assert state.live.all()


def test_auto_does_not_hold_all_scores_of_a_long_sequence():
  shape = jax.ShapeDtypeStruct((1, 4096, 1, 8), jnp.float32)

  def needs(method):
    def total(q, k, v):
      return attention(q, k, v, 64, method=method)[0].sum()

    compiled = jax.jit(jax.grad(total)).lower(shape, shape, shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4096 * 4096 * 4
  assert needs("quadratic") > scores
  assert needs("auto") < scores / 4


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (
      {"k": np.zeros((2, 11, 3, 3), np.float32)},
      "k must have a number of heads",
    ),
    (
      {"k": np.zeros((2, 10, 2, 3), np.float32)},
      "k must be .* got shape .2, 10, 2, 3",
    ),
    ({"v": np.zeros((2, 11, 1, 5), np.float32)}, "v must be"),
    ({"segment_ids": np.zeros((2, 12), np.int32)}, "segment_ids must be"),
    ({"method": "flash"}, "method must be one of .*got 'flash'"),
    ({"window": 0}, "window must be .* got 0"),
    ({"chunk_size": -1}, "chunk_size must be .* got -1"),
    (
      {"window": 3, "initial_state": cache_of(*draw()[1])},
      "initial_state must hold window - 1 = 2 tokens, got 4",
    ),
  ],
)
def test_wrong_calls_name_the_argument(change, match):
  (q, k, v), _ = draw()
  with pytest.raises(ValueError, match=match):
    attention(**({"q": q, "k": k, "v": v} | change))


def test_a_window_of_all_tokens_needs_no_more_memory_than_none():
  """Nor fewer chunks: scores of L x L would be kept for the gradient."""
  x = jax.ShapeDtypeStruct((1, 1024, 1, 4), jnp.float32)

  def temp_bytes(window):
    def loss(q, k, v):
      return jnp.sum(attention(q, k, v, window)[0])

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temp_bytes(1024) <= temp_bytes(None) < 4 * 1024**2
