"""Inverse of a unit lower triangular matrix, by a ladder of block inverses.

The inverse of [[P, 0], [R, Q]] is [[P', 0], [-Q' R P', Q']], so inverses of
blocks of 1, 2, 4, ... follow from those of half the size: log2 C rounds of
matmuls, as accurate as substitution. Powers of the strictly lower part
converge to the same in exact arithmetic, and lose everything in float32 when
keys are alike.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.decay import stack_blocks


def invert_unit_lower(lower: jax.Array) -> jax.Array:
  """`(I + lower)^-1` of a strictly lower triangular [C, C], C = 2^n."""
  size = lower.shape[0]
  inverse = jnp.ones_like(lower[:, :1, None])
  while inverse.shape[-1] < size:
    block = inverse.shape[-1]
    earlier, later = inverse[0::2], inverse[1::2]
    left = _lower_left(lower, block)
    inverse = stack_blocks(inverse, -(later @ left @ earlier))
  return inverse[0]


def _lower_left(lower: jax.Array, block: int) -> jax.Array:
  """The lower left [m, b, b] of the m diagonal blocks [2b, 2b] of [C, C]."""
  count = lower.shape[0] // (2 * block)
  grid = lower.reshape(count, 2, block, count, 2, block)[:, 1, :, :, 0]
  return jnp.moveaxis(jnp.diagonal(grid, axis1=0, axis2=2), -1, 0)
