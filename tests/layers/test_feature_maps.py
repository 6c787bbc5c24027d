"""Hedgehog: its equation, its initial values, and its softmax-like weights."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.feature_maps import Hedgehog

X = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)


def by_loop(x, kernel):
  out = np.zeros((*x.shape[:3], 2 * kernel.shape[-1]))
  for at in np.ndindex(*x.shape[:3]):
    y = x[at].astype(float) @ kernel[at[-1]].astype(float)
    powers = np.exp(np.concatenate([y, -y]))
    out[at] = powers / powers.sum()
  return out


def test_hedgehog_has_one_map_per_head():
  kernel = np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32)
  layer = Hedgehog(6)
  got = layer.apply({"params": {"kernel": kernel}}, X)
  np.testing.assert_allclose(got, by_loop(X, kernel), rtol=1e-5)


def test_the_initial_map_is_the_identity():
  params = Hedgehog().init(jax.random.key(0), X)
  eye = np.broadcast_to(np.eye(4), (3, 4, 4))
  np.testing.assert_array_equal(params["params"]["kernel"], eye)
  np.testing.assert_allclose(
    Hedgehog().apply(params, X), by_loop(X, eye), rtol=1e-5
  )


def test_the_kernel_is_spiky_and_monotonic_like_softmax():
  """It is largest for the key parallel to the query, and grows with q^T k."""
  params = Hedgehog().init(jax.random.key(0), X)
  query = np.zeros((1, 1, 1, 4), np.float32)
  query[..., 0] = 6
  keys = np.concatenate([query * s for s in (-1, -0.5, 0, 0.5, 1)], 1)
  one = jax.tree.map(lambda p: p[:1], params)
  phi = Hedgehog().apply(one, np.concatenate([query, keys], 1))
  products = np.einsum("k,lk->l", phi[0, 0, 0], phi[0, 1:, 0])
  assert (np.diff(products) > 0).all()
  assert products[-1] > 0.9
  assert products[0] < 0.01


def test_bfloat16_and_explicit_axes_work():
  params = Hedgehog().init(jax.random.key(0), X)
  narrow = Hedgehog(dtype=jnp.bfloat16).apply(params, X)
  assert narrow.dtype == jnp.bfloat16
  wanted = Hedgehog().apply(params, X)
  np.testing.assert_allclose(narrow.astype(np.float32), wanted, atol=0.02)
  mesh = jax.make_mesh((2,), ("d",))  # Explicit axes, JAX's default.
  cut = jax.device_put(X, jax.NamedSharding(mesh, jax.P("d")))
  y = jax.jit(Hedgehog().apply)(
    jax.device_put(params, jax.NamedSharding(mesh, jax.P())), cut
  )
  assert jax.typeof(y).sharding.spec[0] == "d"
  np.testing.assert_allclose(y, wanted, rtol=1e-6)
