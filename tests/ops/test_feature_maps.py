"""What the products of feature maps are, from their papers' kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.feature_maps import (
  DIRECTIONS,
  FEATURE_MAPS,
  cosformer,
  dpfp,
  positive_random,
  random_directions,
)

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
  assert y.shape[-1] == {"taylor": 1 + 8 + 64, "dpfp": 16}.get(name, 8)


def test_dpfp_multiplies_neighbours_of_the_rectified_pair():
  x = np.float32([[2, -3, 0, 5]])
  r = [2, 0, 0, 5, 0, 3, 0, 0]
  wanted = [r[i] * r[i - 1] for i in range(8)]
  np.testing.assert_array_equal(dpfp(x)[0], wanted)
  second = [r[i] * r[i - 2] for i in range(8)]
  np.testing.assert_array_equal(dpfp(x, 2)[0], wanted + second)


def test_cosformer_weights_by_the_cosine_of_the_distance():
  x = np.abs(np.random.default_rng(1).normal(size=(9, 2, 3))) + 0.1
  # Far from 0, where float32 has no fractions of positions to spare.
  positions = np.arange(9) + 1_000_000
  y = np.asarray(cosformer(x.astype(np.float32), positions, 5), np.float64)
  products = np.einsum("ihf,jhf->hij", y, y)
  distance = np.arange(9)[:, None] - np.arange(9)
  cosine = np.cos(np.pi / 2 * distance / 5)
  wanted = np.einsum("ihf,jhf->hij", x, x) * cosine
  np.testing.assert_allclose(products, wanted, atol=1e-5)


COUNT, DIMENSION, TRIALS = 16, 8, 20_000


@functools.cache
def estimates(kind):
  """exp(q^T k) from `TRIALS` draws of `COUNT` directions, [TRIALS, pairs]."""
  rng = np.random.default_rng(3)
  q, k = rng.normal(size=(2, 6, DIMENSION)).astype(np.float32) / 3

  @jax.jit
  @jax.vmap
  def estimate(key):
    w = random_directions(key, COUNT, DIMENSION, kind)
    return jnp.sum(positive_random(q, w) * positive_random(k, w), -1)

  got = estimate(jax.random.split(jax.random.key(5), TRIALS))
  return np.asarray(got, np.float64), np.exp(dot(q, k))


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_random_features_are_unbiased(kind):
  got, wanted = estimates(kind)
  error = got.std(0, ddof=1) / TRIALS**0.5
  assert (np.abs(got.mean(0) - wanted) < 3 * error).all()


def test_simplex_errs_less_than_orthogonal_less_than_independent():
  errors = {}
  for kind in DIRECTIONS:
    got, wanted = estimates(kind)
    errors[kind] = np.mean(((got - wanted) / wanted) ** 2)
  assert errors["orthogonal"] < 0.98 * errors["independent"], errors
  assert errors["simplex"] < 0.98 * errors["orthogonal"], errors


def test_the_directions_have_the_angles_of_their_kind():
  for kind, cosine in (("orthogonal", 0), ("simplex", -1 / 7)):
    w = random_directions(jax.random.key(0), 20, 8, kind)
    assert w.shape == (20, 8)
    unit = w / np.linalg.norm(w, axis=-1, keepdims=True)
    for start in (0, 8, 16):
      block = unit[start : start + 8]
      wanted = np.where(np.eye(len(block)), 1, cosine)
      np.testing.assert_allclose(block @ block.T, wanted, atol=1e-5)
  with pytest.raises(ValueError, match="kind must be one of"):
    random_directions(jax.random.key(0), 2, 2, "gaussian")
