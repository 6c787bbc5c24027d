"""Inverse of a unit lower triangular matrix, by a ladder of block inverses.

The inverse of [[P, 0], [R, Q]] is [[P', 0], [-Q' R P', Q']], so inverses of
blocks of 1, 2, 4, ... tokens follow from those of half the size: log2 C
rounds of matmuls, as accurate as substitution. Powers of the strictly lower
part give the same in exact arithmetic, and lose everything in float32 when
keys are alike.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Rounds up to here work on masked blocks of this size: one matmul of 8 x 8
# is cheaper than many smaller ones.
_BLOCK = 8


def invert_unit_lower(lower: jax.Array) -> jax.Array:
  """`X = (I + lower)^-1` of a strictly lower triangular [C, C], C = 2^n."""
  if lower.shape[0] == 1:
    return jnp.ones_like(lower)
  return _invert(lower)


@jax.custom_jvp
def _invert(lower: jax.Array) -> jax.Array:
  size = lower.shape[0]
  block = min(size, _BLOCK)
  blocks = jnp.moveaxis(_diagonal_blocks(lower, block), -1, 0)
  inverse = jax.vmap(_invert_small)(blocks)
  while block < size:
    left = _diagonal_blocks(lower, 2 * block)[block:, :block]
    left = jnp.moveaxis(left, -1, 0)
    inverse = _pair(inverse, -(inverse[1::2] @ left @ inverse[0::2]))
    block *= 2
  return inverse[0]


@_invert.defjvp
def _invert_jvp(primals, tangents):
  """`dX = -X dA X`: two matmuls, not the ladder backwards."""
  (lower,), (d_lower,) = primals, tangents
  inverse = _invert(lower)
  d_lower = jnp.where(np.tri(lower.shape[0], k=-1, dtype=bool), d_lower, 0)
  return inverse, -(inverse @ d_lower @ inverse)


def _invert_small(lower: jax.Array) -> jax.Array:
  """The ladder on a whole [C, C], each round masked to its blocks."""
  size = lower.shape[0]
  i, j = np.arange(size)[:, None], np.arange(size)
  # Made from the argument, so as to be batched and placed like it.
  inverse, half = jnp.where(i == j, 1, jnp.zeros_like(lower)), 1
  while half < size:
    left = (i // half == j // half + 1) & (i // half % 2 == 1)
    inverse -= inverse @ jnp.where(left, lower, 0) @ inverse
    half *= 2
  return inverse


def _diagonal_blocks(x: jax.Array, block: int) -> jax.Array:
  """The m diagonal blocks of [C, C], as [block, block, m]."""
  count = x.shape[0] // block
  return jnp.diagonal(x.reshape(count, block, count, block), 0, 0, 2)


def _pair(diagonal: jax.Array, left: jax.Array) -> jax.Array:
  """Blocks [2m, b, b] and those to their lower left [m, b, b], paired."""
  top = jnp.concatenate([diagonal[0::2], jnp.zeros_like(left)], axis=-1)
  bottom = jnp.concatenate([left, diagonal[1::2]], axis=-1)
  return jnp.concatenate([top, bottom], axis=-2)
