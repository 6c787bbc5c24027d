"""Rotary positions, and positions of packed documents."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.positions import advance_positions

__all__ = ["Ramp", "advance_positions", "rotate"]

Ramp = Literal["turns", "channels", "whole_channels"]


def rotate(
  x: jax.Array,
  positions: jax.Array,
  base: float = 10_000.0,
  *,
  fraction: float = 1.0,
  factor: float = 1.0,
  original_length: float | None = None,
  turns: tuple[float, float] = (1.0, 32.0),
  ramp: Ramp = "turns",
  gain: float = 1.0,
) -> jax.Array:
  """Rotates pairs of channels by angles proportional to the position.

  Channels i and i + K/2 are rotated by position * base^(-2i/K), so the product
  of a query and a key depends only on their distance. Su et al. 2021,
  arXiv:2104.09864. The paper pairs channels 2i and 2i + 1. This function pairs
  i and i + K/2, as most published checkpoints do; the two differ by a fixed
  permutation of the channels.

  With a fraction, only the first fraction * K channels are rotated, and their
  number is K of the formula above (Black et al. 2022, GPT-NeoX-20B,
  arXiv:2204.06745).

  A factor lets a model read longer sequences than those of its training. It
  divides every speed (Chen et al. 2023, arXiv:2306.15595). With an original
  length it divides only slow speeds: those that make fewer turns than turns[0]
  in the original length. Speeds with more turns than turns[1] stay, and between
  the two the result is interpolated (Peng et al. 2023, YaRN, arXiv:2309.00071).
  Llama 3.1 has turns (1, 4). The interpolation is linear in the number of
  turns, as in the paper, or in the index of the speed: published models of YaRN
  have "whole_channels". The gain of YaRN is 0.1 log(factor) + 1.

  Args:
    x: [B, L, H, K], K even.
    positions: [B, L] integers of any size and sign.
    base: The longest wavelength is 2 pi base; above 0.
    fraction: Of the channels that are rotated, from 0 to 1.
    factor: Divides speeds; above 0.
    original_length: The length of the training, in tokens, or None.
    turns: The two numbers of turns for `original_length`.
    ramp: "turns" to interpolate by the number of turns; "channels" by the index
      of the speed; "whole_channels" does so too, with the two ends of the
      interpolation rounded outwards to whole indices.
    gain: Factor on the rotated channels.

  Returns:
    [B, L, H, K] in the dtype of `x`, computed in float32 or wider.

  Raises:
    ValueError: The number of rotated channels is odd, the base or the factor is
      not above 0, or the ramp is unknown.
  """
  width = round(fraction * x.shape[-1])
  if width < x.shape[-1]:
    first = rotate(
      x[..., :width],
      positions,
      base,
      factor=factor,
      original_length=original_length,
      turns=turns,
      ramp=ramp,
      gain=gain,
    )
    return jnp.concatenate([first, x[..., width:]], -1)
  checks.require(width % 2 == 0, f"rotate: x must have K even, got {width}")
  checks.require(factor > 0, f"rotate: factor must be above 0, got {factor}")
  checks.require(
    ramp in get_args(Ramp),
    f"rotate: ramp must be one of {', '.join(get_args(Ramp))}, got {ramp!r}",
  )
  wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
  speeds = _speeds(base, width)
  if original_length is None:
    speeds = speeds / np.asarray(factor, speeds.dtype)
  else:
    kept = _kept(speeds, base, original_length, turns, ramp)
    one = np.ones((), speeds.dtype)
    speeds = speeds * (kept + (one - kept) / np.asarray(factor, speeds.dtype))
  angles = _angles(positions[..., None, None], speeds, wide.dtype)
  sine, cosine = jnp.sin(angles), jnp.cos(angles)
  if gain != 1:
    sine, cosine = gain * sine, gain * cosine
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


def _kept(
  speeds: Any,
  base: Any,
  original_length: float,
  turns: tuple[float, float],
  ramp: Ramp,
) -> Any:
  """The share of each speed that is not divided, from 0 to 1, [K/2]."""
  low, high = turns
  if ramp == "turns":
    made = speeds * np.asarray(original_length / (2 * np.pi), speeds.dtype)
    kept = (made - np.asarray(low, speeds.dtype)).clip(0, high - low)
    return kept / np.asarray(high - low, speeds.dtype)
  # The index at which a speed makes so many turns in the original length.
  first, last = (
    len(speeds) * math.log(original_length / (2 * math.pi * n)) / math.log(base)
    for n in (high, low)
  )
  if ramp == "whole_channels":
    first, last = math.floor(first), math.ceil(last)
  # Published code keeps the ends among the rotated channels, not the speeds.
  first, last = max(first, 0), min(last, 2 * len(speeds) - 1)
  if first == last:
    last += 1e-3
  index = np.arange(len(speeds))
  return 1 - ((index - first) / (last - first)).clip(0, 1).astype(speeds.dtype)


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
