"""Rotary positions, and positions of packed documents."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.positions import advance_positions

__all__ = ["advance_positions", "rotate"]


def rotate(
  x: jax.Array, positions: jax.Array, base: float = 10_000.0
) -> jax.Array:
  """Rotates pairs of channels by angles proportional to the position.

  Channels i and i + K/2 are rotated by position * base^(-2i/K), so the product
  of a query and a key depends only on their distance. Su et al. 2021,
  arXiv:2104.09864. The paper pairs channels 2i and 2i + 1. This function pairs
  i and i + K/2, as most published checkpoints do; the two differ by a fixed
  permutation of the channels.

  Args:
    x: [B, L, H, K], K even.
    positions: [B, L] integers of any size and sign.
    base: The longest wavelength is 2 pi base; above 0.

  Returns:
    [B, L, H, K] in the dtype of `x`, computed in float32 or wider.

  Raises:
    ValueError: K is odd, or the base is not above 0.
  """
  width = x.shape[-1]
  checks.require(width % 2 == 0, f"rotate: x must have K even, got {width}")
  wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
  angles = _angles(positions[..., None, None], _speeds(base, width), wide.dtype)
  sine, cosine = jnp.sin(angles), jnp.cos(angles)
  first, second = jnp.split(wide, 2, -1)
  turned = jnp.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], -1
  )
  return turned.astype(x.dtype)


def _speeds(base: Any, width: int) -> Any:
  """Radians per position, [K/2]; in float64 unless the base is traced."""
  powers = -2 * np.arange(width // 2) / width
  if isinstance(base, jax.core.Tracer):
    return jnp.asarray(base, jnp.float32) ** powers.astype(np.float32)
  checks.require(base > 0, f"rotate: base must be above 0, got {base}")
  return float(base) ** powers


def _angles(positions: jax.Array, speeds: Any, dtype: jnp.dtype) -> jax.Array:
  """`positions * speeds` modulo 2 pi, [..., N], for positions [..., 1].

  float32 is too narrow for the product: at position 1e6 its rounding error is
  0.06. So the product is computed in 32-bit integers, where 2^32 is one turn
  and overflow drops whole turns. The speed, in turns, has 64 bits, so the error
  of the product is below 1e-8.
  """
  speeds = speeds.reshape((1,) * (positions.ndim - 1) + speeds.shape)
  if dtype == jnp.float64 or positions.dtype.itemsize > 4:
    angles = positions.astype(jnp.float64) * speeds.astype(np.float64)
    return (angles % (2 * np.pi)).astype(dtype)
  turns = speeds / np.asarray(2 * np.pi, speeds.dtype) % 1 * 2.0**32
  high = turns.astype(np.uint32)
  low = ((turns - high.astype(turns.dtype)) * 2.0**32).astype(np.uint32)
  # The upper half of position * low, from products of 16 bits, without the
  # carry of the lowest product. A negative position p is stored as 2^32 + p.
  p = positions.astype(jnp.uint32)
  p1, p0, low1, low0 = p >> 16, p & 0xFFFF, low >> 16, low & 0xFFFF
  turned = p * high + p1 * low1 + (p1 * low0 >> 16) + (p0 * low1 >> 16)
  turned -= jnp.where(positions < 0, low, 0)
  # The signed integer is between -1/2 turn and 1/2 turn.
  signed = lax.bitcast_convert_type(turned, jnp.int32)
  return signed.astype(dtype) * np.asarray(2 * np.pi / 2**32, dtype)
