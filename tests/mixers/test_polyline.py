"""The mask of decays in 2-D, and the attention that it masks."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import PolylineAttention
from jaxmodels.mixers.polyline import polyline_mask
from jaxmodels.testing.examples.mixers.polyline import path, plain

RNG = np.random.default_rng(0)


def drawn(rows, columns):
  return -RNG.exponential(size=(2, rows, columns)).astype(np.float32)


def test_the_factorised_mask_is_the_product_along_each_path():
  across, down = drawn(3, 4)
  across[1, 2] = -1e4  # A step that forgets everything.
  got = polyline_mask(jnp.asarray(across), jnp.asarray(down))
  places = list(np.ndindex(3, 4))
  steps = np.exp(across.astype(float)), np.exp(down.astype(float))
  wanted = [
    [(path(*steps, a, b) + path(*steps, b, a)) / 2 for b in places]
    for a in places
  ]
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_one_row_or_one_column_is_the_mask_of_mamba_2_both_ways():
  across, down = drawn(1, 9)
  total = np.cumsum(across[0].astype(float))
  wanted = np.exp(-np.abs(total[:, None] - total))
  got = polyline_mask(jnp.asarray(across), jnp.asarray(down))
  np.testing.assert_allclose(got, wanted, atol=1e-6)
  got = polyline_mask(jnp.asarray(down.T), jnp.asarray(across.T))
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_images_in_one_row_are_separate():
  layer = PolylineAttention(8, heads=2, columns=3)
  x = RNG.normal(size=(1, 15, 8)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  params = jax.tree.map(
    lambda p: p + 0.3 * RNG.normal(size=p.shape).astype(p.dtype), params
  )
  ids = np.repeat([[0, 1]], (6, 9), -1)
  y, _ = jax.jit(layer.apply)({"params": params}, x, segment_ids=ids)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for start, end in ((0, 6), (6, 15)):
    wanted = plain(exact, x[0, start:end].astype(np.float64), layer)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(y[0, start:end], wanted, atol=2e-5 * scale)
