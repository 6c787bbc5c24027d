"""Unit lower triangular systems, solved by a ladder of block inverses.

The inverse of [[P, 0], [R, Q]] is [[P', 0], [-Q' R P', Q']], where P' and Q'
are the inverses of P and Q. So the inverses of blocks of 1, 2, 4, ... tokens
follow from those of half the size, in log2 C rounds of matmuls, as accurately
as by substitution. A series in powers of the strictly lower part is equal in
exact arithmetic, but loses all digits in float32 when keys are nearly equal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine.platform import in_kernel, masked_block, platform


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """`a b`, more accurate than the default of a TPU and a GPU.

  On a TPU, each float32 product then takes three products in bfloat16. With
  one, the default, the inverse is off by up to 0.01 when keys are nearly equal.
  On a GPU, every precision below the highest rounds factors to TF32.
  """
  settings: Any = jax.config
  asked = settings.jax_default_matmul_precision
  three = platform() == "tpu" and asked not in ("float32", "highest")
  if three and in_kernel():
    return _three_products(a, b)
  precision = lax.Precision.HIGH if three else lax.Precision.HIGHEST
  return jnp.matmul(a, b, precision=precision)


def _three_products(a: jax.Array, b: jax.Array) -> jax.Array:
  """As `Precision.HIGH`, which the compiler of kernels does not have."""

  def halves(x):
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(x.dtype)).astype(jnp.bfloat16)

  def product(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)

  (a, a_low), (b, b_low) = halves(a), halves(b)
  return product(a, b) + (product(a, b_low) + product(a_low, b))


@jax.custom_jvp
def solve_unit_lower(lower: jax.Array, b: jax.Array) -> jax.Array:
  """Solves `(I + lower) x = b`.

  Args:
    lower: [C, C], strictly lower triangular, C a power of two.
    b: [C, N].

  Returns:
    x [C, N].
  """
  return _invert(lower) @ b


@solve_unit_lower.defjvp
def _solve_unit_lower_jvp(primals, tangents):
  """`dx = X (db - dlower x)`: as accurate as x; skips the ladder."""
  (lower, b), (d_lower, d_b) = primals, tangents
  inverse = _invert(lower)
  x = inverse @ b
  return x, inverse @ (d_b - d_lower @ x)


def _invert(lower: jax.Array) -> jax.Array:
  """`(I + lower)^-1`."""
  size = lower.shape[0]
  block = masked_block(size, exact=True)
  if block == size:
    return _invert_masked(lower)
  blocks = jnp.moveaxis(_diagonal_blocks(lower, block), -1, 0)
  inverse = jax.vmap(_invert_masked)(blocks)
  while block < size:
    left = _diagonal_blocks(lower, 2 * block)[block:, :block]
    left = jnp.moveaxis(left, -1, 0)
    left = _matmul(_matmul(inverse[1::2], left), inverse[0::2])
    inverse = _pair(inverse, -left)
    block *= 2
  return inverse[0]


def _invert_masked(lower: jax.Array) -> jax.Array:
  """The ladder on a whole [C, C], with a mask of the blocks in each round."""
  size = lower.shape[0]
  i, j = np.arange(size)[:, None], np.arange(size)
  # Made from the argument, so that it is batched and sharded like it.
  inverse, half = jnp.where(i == j, 1, jnp.zeros_like(lower)), 1
  while half < size:
    left = (i // half == j // half + 1) & (i // half % 2 == 1)
    left = jnp.where(left, lower, 0)
    inverse -= _matmul(_matmul(inverse, left), inverse)
    half *= 2
  return inverse


def _diagonal_blocks(x: jax.Array, block: int) -> jax.Array:
  """The m diagonal blocks of [C, C], as [block, block, m]."""
  count = x.shape[0] // block
  return jnp.diagonal(x.reshape(count, block, count, block), 0, 0, 2)


def _pair(diagonal: jax.Array, left: jax.Array) -> jax.Array:
  """Joins blocks [2m, b, b] in pairs, with `left` [m, b, b] at lower left."""
  top = jnp.concatenate([diagonal[0::2], jnp.zeros_like(left)], axis=-1)
  bottom = jnp.concatenate([left, diagonal[1::2]], axis=-1)
  return jnp.concatenate([top, bottom], axis=-2)
