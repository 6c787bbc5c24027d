"""Algebra of batches of small matrices [N, M, ...].

The batch axes come last, so that they fill the vector registers of any
processor. 4 x 4 matrices in the last two axes would fill a sixtieth of a TPU's
tiles of 8 x 128, and on CPU XLA takes fifty times as long for their products.

Linear systems are solved by elimination, not by LAPACK: on two cores, two
concurrent batches of LAPACK calls have deadlocked.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_NARROW = (
  8  # With more columns, a matrix unit gains more than the transpose costs.
)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """`a b` of a [N, K, ...] and b [K, M, ...], in full precision."""
  if a.shape[1] <= _NARROW:
    return _narrow(a, b)
  highest = lax.Precision.HIGHEST
  return jnp.einsum("ik...,kj...->ij...", a, b, precision=highest)


@jax.custom_jvp
def _narrow(a, b):
  """Unrolled sum of products, on CPU eight times faster than a reduction."""
  columns = lax.split(a, (1,) * a.shape[1], axis=1)
  rows = lax.split(b, (1,) * b.shape[0], axis=0)
  return functools.reduce(jnp.add, map(jnp.multiply, columns, rows))


@_narrow.defjvp
def _narrow_jvp(primals, tangents):
  """Uses reductions: the transpose of the unrolled sum would be many ops."""
  (a, b), (da, db) = primals, tangents
  return _narrow(a, b), _reduced(da, b) + _reduced(a, db)


def _reduced(a, b):
  return jnp.sum(a[:, :, None] * b[None], 1)


def matvec(a: jax.Array, x: jax.Array) -> jax.Array:
  """`a x` of a [N, K, ...] and x [K, ...]."""
  return matmul(a, x[:, None])[:, 0]


def transpose(a: jax.Array) -> jax.Array:
  """`a^T` of a [N, M, ...]."""
  return jnp.swapaxes(a, 0, 1)


def congruence(a: jax.Array, x: jax.Array) -> jax.Array:
  """`a x a^T` of a [N, K, ...] and a symmetric x [K, K, ...]."""
  return symmetric(matmul(matmul(a, x), transpose(a)))


def symmetric(x: jax.Array) -> jax.Array:
  """Makes x symmetric again: an asymmetry from rounding would grow."""
  return (x + transpose(x)) / 2


def eye_like(like: jax.Array) -> jax.Array:
  """Identity matrices [N, N, 1, ...] for an array [N, M, ...]."""
  eye = jnp.eye(like.shape[0], dtype=like.dtype)
  return eye.reshape(*eye.shape, *[1] * (like.ndim - 2))


def solve(matrix: jax.Array, x: jax.Array) -> jax.Array:
  """`matrix^-1 x`, with partial pivoting.

  Args:
    matrix: [N, N, ...].
    x: [N, M, ...].

  Returns:
    [N, M, ...], not finite where the matrix is singular.
  """
  return lax.custom_linear_solve(
    functools.partial(matmul, matrix),
    x,
    lambda _, x: _eliminate(matrix, x, pivoting=True)[0],
    lambda _, x: _eliminate(transpose(matrix), x, pivoting=True)[0],
  )


def solve_positive(matrix: jax.Array, x: jax.Array) -> jax.Array:
  """`matrix^-1 x` of symmetric positive definite matrices.

  Args:
    matrix: [N, N, ...].
    x: [N, M, ...].

  Returns:
    [N, M, ...].
  """
  return lax.custom_linear_solve(
    functools.partial(matmul, matrix),
    x,
    lambda _, x: _eliminate(matrix, x, pivoting=False)[0],
    symmetric=True,
  )


@jax.custom_jvp
def log_determinant(matrix: jax.Array) -> jax.Array:
  """`log |matrix|` of symmetric positive definite [N, N, ...]; else NaN."""
  _, pivots = _eliminate(matrix, matrix[:, :0], pivoting=False)
  return jnp.sum(jnp.log(pivots), 0)


@log_determinant.defjvp
def _log_determinant_jvp(primals, tangents):
  (matrix,), (tangent,) = primals, tangents
  moved = solve_positive(matrix, tangent)
  return log_determinant(matrix), jnp.trace(moved)


def _eliminate(matrix, x, pivoting):
  """`matrix^-1 x` by Gauss-Jordan elimination, and the pivots [N, ...].

  Round k makes column k equal to that of the identity.
  """
  size = matrix.shape[0]
  rows = jnp.arange(size).reshape(size, *[1] * (matrix.ndim - 1))

  def round_(k, carry):
    both, pivots = carry
    row = _slice(both, k, 0)
    if pivoting:  # Swap row k with that of the largest number.
      sizes = jnp.where(rows >= k, jnp.abs(_slice(both, k, 1)), -1)
      chosen = rows == jnp.argmax(sizes, 0, keepdims=True)
      largest = jnp.sum(jnp.where(chosen, both, 0), 0, keepdims=True)
      both, row = jnp.where(chosen, row, both), largest
    pivot = _slice(row, k, 1)
    row = row / pivot
    rest = both - _slice(both, k, 1) * row
    here = rows == k
    return jnp.where(here, row, rest), jnp.where(here, pivot, pivots)

  start = jnp.concatenate([matrix, x], 1), jnp.ones_like(matrix[:, :1])
  both, pivots = lax.fori_loop(0, size, round_, start)
  return both[:, size:], pivots[:, 0]


def _slice(x, index, axis):
  """Returns row or column `index` as a matrix."""
  return lax.dynamic_slice_in_dim(x, index, 1, axis)
