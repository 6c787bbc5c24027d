"""Programs whose products are rounded to TF32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.analysis.rounding import with_tf32
from jaxmodels.ops import delta_rule


def tf32(x):
  """To the nearest number with 10 bits of mantissa, ties to even, in numpy."""
  bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
  odd = bits >> 13 & 1
  return ((bits + 0xFFF + odd) >> 13 << 13).astype(np.uint32).view(np.float32)


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_factors_are_rounded_and_sums_are_not():
  x, y = normal(0, 8, 16), normal(1, 16, 4)
  assert (tf32(x) != x).any()
  found = with_tf32(lambda x, y: x @ y + 1e-6)(x, y)
  expected = tf32(x).astype(float) @ tf32(y).astype(float) + 1e-6
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
  assert np.max(np.abs(found - x @ y)) > 1e-4


def test_the_highest_precision_stays():
  x, y = normal(0, 8, 16), normal(1, 16, 4)

  def product(x, y):
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)

  assert (with_tf32(product)(x, y) == product(x, y)).all()


def test_loops_branches_and_gradients():
  """Each product is found, however deep: the result is that of rounding it."""
  matrix, rows = normal(0, 4, 4), normal(1, 5, 4)

  def loss(product, matrix):
    @jax.checkpoint
    def body(x, row):
      x = lax.cond(row[0] > 0, lambda x: product(x, matrix), jnp.tanh, x)
      return x + row, x

    return jnp.sum(jax.jit(lambda: lax.scan(body, rows[0], rows))()[1])

  found = jax.jit(with_tf32(jax.grad(lambda x: loss(jnp.matmul, x))))(matrix)
  plain = jax.grad(lambda x: loss(jnp.matmul, x))(matrix)
  expected = jax.grad(lambda x: loss(_product, x))(matrix)
  assert np.max(np.abs(plain - expected)) > 1e-4
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@jax.custom_vjp
def _product(x, y):
  return _rounded(x) @ _rounded(y)


def _rounded(x):
  return lax.reduce_precision(x, 8, 10)


_product.defvjp(
  lambda x, y: (_product(x, y), (x, y)),
  lambda saved, d: (
    _rounded(d) @ _rounded(saved[1]).T,
    jnp.outer(_rounded(saved[0]), _rounded(d)),
  ),
)


def test_an_op_loses_three_digits():
  """With custom derivatives inside: see `solve_unit_lower`."""
  q, k, v = (normal(i, 1, 64, 1, 8) for i in range(3))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  beta = np.full((1, 64, 1), 0.9, np.float32)

  def gradient(q, k, v, beta):
    return jax.grad(lambda k: jnp.sum(delta_rule(q, k, v, beta)[0]))(k)

  exact, found = gradient(q, k, v, beta), with_tf32(gradient)(q, k, v, beta)
  error = np.max(np.abs(found - exact)) / np.max(np.abs(exact))
  assert 1e-5 < error < 1e-2
