"""Latent attention: a small cache, read in two forms that are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import LatentAttention
from jaxmodels.ops.attention.latent import LatentCache, latent_attention
from jaxmodels.testing import relative_error


def test_the_cache_has_one_vector_per_token():
  """C + R numbers per token, and not 2 H K: here 40 in place of 256."""
  layer = LatentAttention(
    64, heads=8, rank=32, key_width=16, rotary_width=8, max_length=33
  )
  state = jax.eval_shape(lambda: layer.init_state(3))
  assert state.cache.latents.shape == (3, 32, 40)
  sizes = [leaf.size for leaf in jax.tree.leaves(state)]
  assert sum(sizes) == 3 * (32 * 40 + 32 + 1)


def test_both_forms_are_the_sum_over_keys_of_the_equation():
  """Many tokens after a cache expand it; few tokens do not."""
  rng = np.random.default_rng(0)
  heads, rank, width, rest, values, past = 3, 8, 4, 2, 4, 5
  more = 2 * rank - width - values
  limit = rank * (width + values) // more
  kernel = rng.normal(size=(rank, heads, width + values))
  before = rng.normal(size=(2, past, rank + rest))
  live = np.ones((2, past), bool)
  live[1, :2] = False
  run = jax.jit(
    lambda q, c: latent_attention(
      q, c, kernel, past + 1, LatentCache(before, live)
    )
  )
  with jax.enable_x64(True):
    for length in (limit, limit + 1):
      q = rng.normal(size=(2, length, heads, width + rest))
      c = rng.normal(size=(2, length, rank + rest))
      y, cache = run(q, c)
      # Only the second form has a product of queries and maps of keys.
      lowered = run.lower(q, c).as_text()
      absorbed = f"tensor<2x{length}x{heads}x{rank + rest}xf64>" in lowered
      assert absorbed == (length == limit)
      every = np.concatenate([before, c], 1)
      made = np.einsum("bsc,chf->bshf", every[..., :rank], kernel)
      for b, t, h in np.ndindex(2, length, heads):
        seen = [s for s in range(t, past + t + 1) if s >= past or live[b, s]]
        keys = np.concatenate(
          [made[b, seen, h, :width], every[b, seen, rank:]], -1
        )
        weights = np.exp(keys @ q[b, t, h])
        wanted = weights / weights.sum() @ made[b, seen, h, width:]
        np.testing.assert_allclose(y[b, t, h], wanted, rtol=1e-9, atol=1e-12)
      np.testing.assert_array_equal(cache.latents, every[:, -past:])


def test_pieces_of_any_length_are_the_whole():
  """The second form continues what the first form has cached."""
  layer = LatentAttention(16, heads=2, rank=12, max_length=40)
  x = np.random.default_rng(1).normal(size=(1, 30, 16)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)
  wanted, last = jax.jit(layer.apply)(params, x)
  state, pieces, step = layer.init_state(1), [], jax.jit(layer.apply)
  for first, end in ((0, 13), (13, 26), (26, 28), (28, 30)):
    y, state = step(params, x[:, first:end], state)
    pieces.append(y)
  assert relative_error(np.concatenate(pieces, 1), wanted) < 1e-5
  assert relative_error(state.cache.latents, last.cache.latents) < 1e-5
  np.testing.assert_array_equal(state.cache.live, last.cache.live)


def test_wrong_sizes_are_named():
  x = jax.ShapeDtypeStruct((1, 3, 8), jnp.float32)
  key = jax.random.key(0)
  layer = LatentAttention(8, heads=2, rotary_width=3)
  with pytest.raises(ValueError, match=r"rotary_width, .* even, got 3"):
    jax.eval_shape(layer.init, key, x)
  layer = LatentAttention(8, heads=2, max_length=2)
  with pytest.raises(ValueError, match=r"max_length is 2, .* 3 tokens: raise"):
    jax.eval_shape(layer.init, key, x)
