"""TransNormer: its gradients are bounded where the quotient's are not."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import DiagAttention, NormAttention
from jaxmodels.ops import linear_attention, normalized_linear_attention

WIDTH, EPSILON = 4, 1e-6
SIZES = np.array([1, 1e-4, 1e-10, 1e-12])


def slopes(op, length):
  """The largest |dy / dq| of the last token, for queries of each size."""
  rng = np.random.default_rng(0)
  k, v = np.abs(rng.normal(size=(2, 1, length, 1, WIDTH))).astype(np.float32)
  q = np.float32(SIZES)[:, None] * np.ones((1, WIDTH), np.float32)

  def last(q):
    return op(jnp.broadcast_to(q[None, None, None], k.shape), k, v)[0, -1, 0]

  return np.abs(jax.jit(jax.vmap(jax.jacobian(last)))(q)).max((1, 2))


def quotient(q, k, v):
  return normalized_linear_attention(q, k, v, floor=1e-30)[0]


def normed(q, k, v):
  y, _ = linear_attention(q, k, v)
  mean = jnp.mean(y * y, -1, keepdims=True)
  return y / jnp.sqrt(mean + EPSILON)


def test_gradients_are_bounded_for_any_scores_and_lengths():
  """Qin et al. 2022, section 4.1: they grow as 1 / score in the quotient.

  Keys and queries near 0 make every score of a row small. The quotient does
  not change with the size of q, so its gradient is that of size 1 times 1 /
  size. In the norm, epsilon is above small scores and bounds the gradient by
  |sum k v| / sqrt(epsilon); longer sequences make scores larger, not smaller.
  """
  divided = slopes(quotient, 64)
  np.testing.assert_allclose(divided, divided[0] / SIZES, rtol=1e-3)
  for length in (16, 64, 256):
    # sum_s |k_s| |v_s| at most 4 length for these draws.
    got = slopes(normed, length)
    assert got.max() < 4 * length / EPSILON**0.5
    # Below epsilon the gradient does not grow at all.
    np.testing.assert_allclose(got[-1], got[-2], rtol=1e-2)
    assert divided[-1] > 1e3 * got[-1]


def test_blocks_do_not_see_each_other():
  layer = DiagAttention(8, heads=2, block_size=3)
  x = np.random.default_rng(0).normal(size=(1, 9, 8)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)

  def change(x):
    return layer.apply(params, x)[0]

  reads = np.abs(jax.jit(jax.jacobian(change))(x)).max((0, 2, 3, 5)) > 0
  i, j = np.indices((9, 9))
  np.testing.assert_array_equal(reads, (i // 3 == j // 3) & (j <= i))


def test_norm_attention_does_not_depend_on_the_size_of_its_keys():
  layer = NormAttention(8, heads=2, feature_map="relu")
  x = np.random.default_rng(0).normal(size=(1, 9, 8)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  larger = {**params, "key": jax.tree.map(lambda w: 50 * w, params["key"])}
  run = jax.jit(layer.apply)
  y, _ = run({"params": params}, x)
  again, _ = run({"params": larger}, x)
  np.testing.assert_allclose(y[:, 2:], again[:, 2:], atol=1e-3)
