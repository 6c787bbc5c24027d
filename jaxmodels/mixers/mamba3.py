"""Mamba-3: a trapezoidal, rotating state-space mixer with many inputs."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  split_heads,
  step_bias,
)
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import diagonal_recurrence, linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba3", "Mamba3State"]

# The smallest -A, so that no state lasts for ever.
SLOWEST = 1e-4


@serializable
class Mamba3State(NamedTuple):
  """The last token, and the state before its own write.

  The angles are not in the state: key and state are rotated back by those of
  the last token, so that the angles of the next call start from 0.

  Attributes:
    key: [B, H, R, N], B of the last token.
    value: [B, E], its u.
    weight: [B, H], its lambda dt.
    state: [B, H, N, P], without the write of the last token.
  """

  key: jax.Array
  value: jax.Array
  weight: jax.Array
  state: jax.Array


class Mamba3(Mixer):
  """A state-space model by the trapezoidal rule, with rotating B and C.

  E = expand D channels form H = E / P heads of width P. The heads form G
  groups, and the heads of a group share the projections to B and C. Per head,
  with S_t [N, P] the state, R the rank, and B_t, C_t [N, R]:

    z, u = W_z x, W_u x;  dt_t = softplus(W_d x + dt_bias)
    A_t = -softplus(W_A x),  lambda_t = sigmoid(W_l x)
    theta_t = theta_{t-1} + pi dt_t tanh(W_a x)                        [M]
    B_t, C_t = rotate(RMSNorm(W_B x) + b_B), rotate(RMSNorm(W_C x) + b_C)
    V_t = (m_x * u_t)^T, R rows of width P
    S_t = a_t S_{t-1} + (1 - lambda_t) dt_t a_t B_{t-1} V_{t-1}
          + lambda_t dt_t B_t V_t,  a_t = exp(dt_t A_t)
    Y_t = C_t^T S_t + D_skip V_t
    out = W_o sum_r m_o * Y_t * SiLU(m_z * z_t)

  The rotation by theta_t is that of complex states whose phase is chosen by
  the token: it turns channels i and i + N/2 by the angle theta_t[i], for i < M.
  M is `rotary_fraction` N / 2, rounded down. There is no short convolution.
  With a rank of 1 the three scales m are left out.

  Lahoti et al. 2026, "Mamba-3: Improved Sequence Modeling using State Space
  Principles", arXiv:2603.15569. As in the authors' code, A depends on the token
  and is at most -1e-4, tanh bounds the angles, b_B, b_C, m_z and D_skip are
  initially 1, m_x and m_o are 1 / R, and softplus(dt_bias) is log-uniform in
  [0.001, 0.1]. Their code of rank 1 pairs channels 2i and 2i + 1; the two
  differ by a fixed permutation. Departures: LeCun initialisation; no norm
  before the output projection, which is optional there.

  A token and its successor write the same B_t V_t. So linear attention writes
  it once, at token t + 1 and with the sum of both weights, and the term
  lambda_t dt_t C_t^T B_t V_t is added to Y_t. The other fields are those of
  `Mixer`.

  Attributes:
    expand: E / D.
    head_width: P, a divisor of E.
    state_width: N, even.
    groups: G, a divisor of the number of heads.
    rank: R, the number of inputs and outputs per head ("MIMO" if above 1).
    rotary_fraction: The part of the channels of B and C that rotates.
  """

  expand: int = 2
  head_width: int = 64
  state_width: int = 128
  groups: int = 1
  rank: int = 1
  rotary_fraction: float = 0.5

  def mix(
    self, x: jax.Array, state: Mamba3State | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Mamba3State]:
    """The equation above."""
    inner, heads = self._sizes()
    z, u = self.dense("gate", inner)(x), self.dense("input", inner)(x)
    dt, log_a, weight, rest = self._steps(x, heads)
    none: Any = (None,) * 4
    before = Mamba3State(*none) if state is None else state
    angle, last_angle = self._angles(x, dt, segment_ids)
    b = _rotate(self._projected("B", x, heads), angle).astype(self.dtype)
    c = _rotate(self._projected("C", x, heads), angle).astype(self.dtype)
    # The B, u and lambda dt of the token before.
    key = None if before.key is None else _flat(before.key, 1)
    earlier_b, key = self.tokens_before(_flat(b, 2), key, segment_ids)
    earlier_u, value = self.tokens_before(u, before.value, segment_ids)
    earlier, last_weight = self.tokens_before(
      weight, before.weight, segment_ids
    )
    # The rows V of this token and of the one before.
    scale = self._scale("mimo_x", heads, 1 / self.rank)
    v = _rows(split_heads(u, heads).astype(self.wide), scale)
    earlier_v = _rows(split_heads(earlier_u, heads).astype(self.wide), scale)
    # C_t^T S_t without the write of token t, then that write and the skip.
    factor = jnp.exp(log_a) * (earlier + rest)
    y, memory = self._read(
      c,
      earlier_b.reshape(b.shape),
      earlier_v * factor[..., None, None],
      log_a,
      before.state,
      segment_ids,
    )
    skip = self.wide_param("D", nn.initializers.ones, (heads,))
    y = y + _own(c, b, v * weight[..., None, None])
    y = y + v * skip[None, None, :, None, None]
    # The next call's angles start from 0.
    key = _rotate(key.reshape((x.shape[0], *b.shape[2:])), -last_angle)
    memory = jnp.swapaxes(
      _rotate(jnp.swapaxes(memory, 2, 3), -last_angle), 2, 3
    )
    y = self._gated_sum(y, split_heads(z, heads))
    return self.project_out(y), Mamba3State(key, value, last_weight, memory)

  @nn.nowrap
  def _gated_sum(self, y: jax.Array, z: jax.Array) -> jax.Array:
    """The sum over rows of m_o * Y * SiLU(m_z * z), [B, L, H, P]."""
    heads = z.shape[2]
    scale = self._scale("mimo_z", heads, 1.0)
    y = y * nn.silu(_rows(z.astype(self.wide), scale))
    scale = self._scale("mimo_o", heads, 1 / self.rank)
    return jnp.sum(y if scale is None else y * scale, 3).astype(self.dtype)

  @nn.nowrap
  def _steps(self, x: jax.Array, heads: int) -> tuple[jax.Array, ...]:
    """dt, dt A, lambda dt and (1 - lambda) dt, all [B, L, H]."""
    logits, rate, trapezoid = (
      self.dense(name, heads, dtype=self.wide)(x)
      for name in ("step", "rate", "trapezoid")
    )
    bias = self.wide_param("dt_bias", step_bias(1e-3, 1e-1), (heads,))
    step = nn.softplus(logits + bias[None, None])
    log_decay = -step * jnp.maximum(nn.softplus(rate), SLOWEST)
    own, other = nn.sigmoid(trapezoid), nn.sigmoid(-trapezoid)
    return step, log_decay, own * step, other * step

  @nn.nowrap
  def _angles(self, x, step, segment_ids):
    """The angles [B, L, H, M], and those [B, H, M] of the last token."""
    count = int(self.rotary_fraction * self.state_width) // 2
    speeds = jnp.tanh(self.dense("angle", count, dtype=self.wide)(x)) / 2
    parts = split_turns(step[..., None] * speeds[:, :, None])
    sums, last = self.run(
      diagonal_recurrence,
      None,
      parts,
      state=None,
      segment_ids=segment_ids,
    )
    return angles_of(sums), angles_of(last)

  @nn.nowrap
  def _projected(self, name: str, x: jax.Array, heads: int) -> jax.Array:
    """B or C of every head before the rotation, [B, L, H, R, N]."""
    y = self.heads_of(name, x, self.rank * self.groups, self.state_width)
    y = self.new_norm(f"{name}_norm")(y).astype(self.wide)
    shape = (heads, self.rank, self.state_width)
    bias = self.wide_param(f"{name}_bias", nn.initializers.ones, shape)
    return _with_bias(y, bias, self.groups)

  @nn.nowrap
  def _read(self, c, b, v, log_decay, state, segment_ids):
    """Y [B, L, H, R, P] of the tokens before each token, and the state.

    R rows of one token are R tokens of linear attention, of which only the
    first decays the state. Row r of C then lacks the writes of later rows.
    """
    rows = self.rank
    if rows > 1 and segment_ids is not None:
      segment_ids = jnp.repeat(segment_ids, rows, 1)
    later = jnp.zeros_like(log_decay)[..., None]
    decays = jnp.concatenate([log_decay[..., None], *[later] * (rows - 1)], 3)
    y, last = self.run(
      linear_attention,
      _in_line(c, self.reverse),
      _in_line(b, self.reverse),
      _in_line(v, self.reverse),
      _in_line(decays[..., None], self.reverse)[..., 0],
      state=state,
      segment_ids=segment_ids,
    )
    y = _in_rows(y, rows, self.reverse)
    return (y if rows == 1 else y + _later_rows(c, b, v)), last

  @nn.nowrap
  def _scale(self, name: str, heads: int, value: float) -> jax.Array | None:
    """The scale m [1, 1, H, R, P] of rows, or None for a rank of 1."""
    if self.rank == 1:
      return None
    shape = (heads, self.rank, self.head_width)
    scale = self.wide_param(name, nn.initializers.constant(value), shape)
    return scale[None, None]

  def _sizes(self) -> tuple[int, int]:
    """E and H, after a check of all fields."""
    check_fields(self, "expand", "head_width", "state_width", "groups", "rank")
    check_positive(self, "rotary_fraction")
    checks.require(
      self.state_width % 2 == 0
      and 2 <= self.rotary_fraction * self.state_width <= self.state_width,
      "Mamba3: state_width must be even, and rotary_fraction must leave from 1 "
      f"to state_width / 2 pairs to rotate, got {self.state_width} and "
      f"{self.rotary_fraction}",
    )
    inner = self.expand * self.width
    heads = divide(self, "head_width", inner, "expand * D")
    divide(self, "groups", heads, "the number of heads")
    return inner, heads


def split_turns(turns: jax.Array) -> jax.Array:
  """Cuts turns [..., M] into parts [..., 2 M] whose sums keep their digits.

  Float32 has too few digits for a sum of many angles. So each angle, in turns,
  is a multiple of 1/1024, whose sums are exact up to 16,384 turns, and a rest.
  An axis of two parts would fill 2 of the 128 lanes of a TPU.
  """
  coarse = jax.lax.stop_gradient(jnp.round(turns * 1024) / 1024)
  return jnp.concatenate([coarse, turns - coarse], -1)


def angles_of(sums: jax.Array) -> jax.Array:
  """The angles [..., M] of sums [..., 2 M] of such parts, in one turn."""
  coarse, rest = jnp.split(sums, 2, -1)
  return 2 * math.pi * (coarse - jnp.round(coarse) + rest)


@by_letters("B L H R N", y="B L M N", bias="H R N")
def _with_bias(y: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
  """Repeats y [B, L, R G, N] over the heads of a group, and adds the bias."""
  heads, rank, _ = bias.shape
  y = y.reshape((*y.shape[:2], rank, groups, y.shape[-1]))
  y = jnp.repeat(jnp.swapaxes(y, 2, 3), heads // groups, 2)
  return y + bias[None, None]


def _flat(x: jax.Array, axes: int) -> jax.Array:
  """Merges all axes but the first ones."""
  return x.reshape((*x.shape[:axes], math.prod(x.shape[axes:])))


@by_letters("... H R N", x="... H R N", angle="... H M")
def _rotate(x: jax.Array, angle: jax.Array) -> jax.Array:
  """Rotates channels i and i + N/2 by angle[i], for i < M."""
  half, count = x.shape[-1] // 2, angle.shape[-1]
  angle = angle[..., None, :]
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  first, rest, second, last = jnp.split(x, (count, half, half + count), -1)
  turned = first * cosine - second * sine, first * sine + second * cosine
  return jnp.concatenate([turned[0], rest, turned[1], last], -1)


@by_letters("B L H R P", x="B L H P", scale="B L H R P")
def _rows(x: jax.Array, scale: jax.Array | None) -> jax.Array:
  """The rows x [B, L, H, P] times m, [B, L, H, R, P]."""
  x = x[:, :, :, None]
  return x if scale is None else x * scale


def _scores(c: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return jnp.einsum("blhrn,blhsn->blhrs", c, b, preferred_element_type=dtype)


@by_letters("B L H R P", c="B L H R N", b="B L H R N", v="B L H R P")
def _own(c: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
  """C_t^T B_t V_t: what a token reads of its own write."""
  scores = _scores(c, b, v.dtype)
  return jnp.einsum("blhrs,blhsp->blhrp", scores, v)


@by_letters("B L H R P", c="B L H R N", b="B L H R N", v="B L H R P")
def _later_rows(c: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
  """The same of the rows s of B and V after each row r of C."""
  scores = _scores(c, b, v.dtype)
  later = ~np.tri(c.shape[3], dtype=bool)[None, None, None]
  return jnp.einsum("blhrs,blhsp->blhrp", jnp.where(later, scores, 0), v)


@by_letters("B T H N", x="B L H R N")
def _in_line(x: jax.Array, reverse: bool) -> jax.Array:
  """Rows as tokens: [B, L, H, R, N] to [B, L R, H, N], in the run's order."""
  x = jnp.moveaxis(jnp.flip(x, 3) if reverse else x, 3, 2)
  return x.reshape((x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]))


@by_letters("B L H R N", y="B T H N")
def _in_rows(y: jax.Array, rows: int, reverse: bool) -> jax.Array:
  """The inverse of `_in_line`."""
  y = y.reshape((y.shape[0], y.shape[1] // rows, rows, *y.shape[2:]))
  y = jnp.moveaxis(y, 2, 3)
  return jnp.flip(y, 3) if reverse else y
