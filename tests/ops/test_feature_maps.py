"""What the products of feature maps are, from their papers' kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.feature_maps import FEATURE_MAPS

Q, K = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)


def kernel(name, q, k):
  return np.einsum(
    "...k,...k",
    np.asarray(FEATURE_MAPS[name](q), np.float64),
    np.asarray(FEATURE_MAPS[name](k), np.float64),
  )


def dot(q, k):
  return np.einsum("...k,...k", q.astype(float), k.astype(float))


def test_identity_is_the_dot_product():
  np.testing.assert_allclose(kernel("identity", Q, K), dot(Q, K), rtol=1e-6)


def test_taylor_is_the_series_of_the_exponential():
  product = dot(Q, K)
  wanted = 1 + product + product**2 / 2
  np.testing.assert_allclose(kernel("taylor", Q, K), wanted, rtol=1e-5)
  assert (kernel("taylor", Q, -Q) >= 0.5 - 1e-6).all()
  # Off from exp by the third order alone: by 1/8 where the product is halved.
  near = [kernel("taylor", Q / s, K / s) for s in (8, 8 * 2**0.5)]
  exact = [np.exp(product / s**2) for s in (8, 8 * 2**0.5)]
  ratio = (near[1] - exact[1]) / (near[0] - exact[0])
  large = np.abs(product) > 1
  np.testing.assert_allclose(ratio[large], 1 / 8, rtol=0.2)


def test_elu_plus_one_is_exp_below_zero_and_linear_above():
  x = np.float32([-80, -3, -1e-3, 0, 1e-3, 3, 80])
  wanted = np.where(x > 0, x.astype(float) + 1, np.exp(np.minimum(x, 0.0)))
  got = FEATURE_MAPS["elu_plus_one"](x)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  np.testing.assert_allclose(
    kernel("elu_plus_one", -abs(Q), -abs(K)),
    np.exp(-abs(Q.astype(float)) - abs(K)).sum(-1),
    rtol=1e-5,
  )
  assert (kernel("elu_plus_one", 9 * Q, 9 * K) > 0).all()
  slopes = jax.vmap(jax.grad(FEATURE_MAPS["elu_plus_one"]))(x)
  wanted = np.where(x > 0, 1, np.exp(np.minimum(x, 0.0)))
  # At 0 both sides have the slope 1.
  np.testing.assert_allclose(slopes, wanted, rtol=1e-6)


def test_relu_sees_the_channels_where_both_are_positive():
  both = (Q > 0) & (K > 0)
  wanted = np.sum(np.where(both, Q.astype(float) * K, 0), -1)
  np.testing.assert_allclose(kernel("relu", Q, K), wanted, rtol=1e-5)


def test_softmax_is_a_probability_that_both_pick_one_channel():
  np.testing.assert_allclose(FEATURE_MAPS["softmax"](Q).sum(-1), 1, rtol=1e-6)
  got = kernel("softmax", 3 * Q, 3 * K)
  assert ((got > 0) & (got <= 1)).all()
  sharp = kernel("softmax", 200 * Q, 200 * Q)
  np.testing.assert_allclose(sharp, 1, atol=1e-3)
  # Shifts of all channels change nothing.
  np.testing.assert_allclose(
    kernel("softmax", 3 * Q + 5, 3 * K), got, rtol=1e-4
  )


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_dtypes_and_leading_axes_are_kept(name):
  x = jnp.asarray(Q, jnp.bfloat16)
  y = FEATURE_MAPS[name](x)
  assert y.dtype == jnp.bfloat16
  assert y.shape[:-1] == x.shape[:-1]
  assert y.shape[-1] == (1 + 8 + 64 if name == "taylor" else 8)
