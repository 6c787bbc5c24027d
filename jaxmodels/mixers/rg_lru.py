"""The recurrent block of Hawk, Griffin and RecurrentGemma."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import diagonal_recurrence
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["RGLRU", "RGLRUState"]

# The paper's c: the recurrence gate scales the log decay by up to this factor.
_SHARPNESS = 8.0


@serializable
class RGLRUState(NamedTuple):
  """The convolution state [B, W - 1, E], h [B, E], and earlier tokens, [B]."""

  convolution_state: jax.Array
  state: jax.Array
  position: jax.Array


class RGLRU(Mixer):
  """The real-gated linear recurrent unit, in the block of Griffin and Hawk.

  With h_t in R^E and c = 8:

    u = conv(W_x x + b_x)
    r_t, i_t = sigmoid(W_a u_t + b_a), sigmoid(W_i u_t + b_i)
    a_t = exp(-c softplus(Lambda) r_t)
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * i_t * u_t
    y_t = W_o (h_t * GELU(W_y x_t + b_y)) + b_o

  De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention
  for Efficient Language Models", arXiv:2402.19427. W_a and W_i are block
  diagonal with `heads` blocks. Initially exp(-c softplus(Lambda)) is uniform in
  [0.9, 0.999]. (The paper writes softplus(-Lambda) with the opposite sign of
  the parameter; this is the sign of the published weights.) As in the published
  code of RecurrentGemma, the first token of a segment has the factor 1 in place
  of sqrt(1 - a^2), and the convolution has a bias and no activation. The gates
  and h are computed in float32 or wider. Departures: the default `lru_width` is
  that of RecurrentGemma (the paper's is about 4 D / 3); LeCun initialisation,
  and that of `ShortConvolution`.

  The other fields are those of `Mixer`.

  Attributes:
    heads: The number of blocks of W_a and W_i, a divisor of E.
    lru_width: E, by default D.
    kernel_width: W, the kernel width of the convolution.
  """

  heads: int = 4
  lru_width: int | None = None
  kernel_width: int = 4

  def mix(
    self, x: jax.Array, state: RGLRUState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, RGLRUState]:
    """The equation above."""
    width = self._width()
    convolution_state, entering, position = state or (None, None, None)
    positions, position = self.positions(x, position, segment_ids)
    gate = nn.gelu(self.dense("gate", width, use_bias=True)(x))
    convolution = self.new_convolution(
      "convolution",
      self.kernel_width,
      use_bias=True,
      activation=lambda u: u,
    )
    u, convolution_state = convolution(
      self.dense("input", width, use_bias=True)(x),
      convolution_state,
      segment_ids=segment_ids,
    )
    u = u.astype(self.wide)
    rate = self.wide_param("Lambda", _rates, (width,))
    rate = _SHARPNESS * nn.softplus(rate)[None, None]
    log_a = -rate * self._gate("recurrence_gate", u)
    # Above 0, so that the gradient of the root is finite.
    dampened = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-20))
    dampened = jnp.where((positions == 0)[..., None], 1, dampened)
    h, last = self.run(
      diagonal_recurrence,
      jnp.exp(log_a),
      dampened * self._gate("input_gate", u) * u,
      state=entering,
      segment_ids=segment_ids,
    )
    output = self.dense(
      "output", self.width, use_bias=True, scale=self.output_scale
    )
    y = output(h.astype(self.dtype) * gate)
    return y, RGLRUState(convolution_state, last, position)

  def _gate(self, name: str, u: jax.Array) -> jax.Array:
    """sigmoid(W u + b), W with one block [E / heads, E / heads] per head."""
    gate = _BlockDiagonal(self.param_dtype, name=name)
    return merge_heads(nn.sigmoid(gate(split_heads(u, self.heads))))

  def _width(self) -> int:
    """E, after a check of all fields."""
    check_fields(self, "heads", "lru_width", "kernel_width")
    width = self.lru_width or self.width
    divide(self, "heads", width, "lru_width, by default D,")
    return width


class _BlockDiagonal(nn.Module):
  """A dense map with a bias per head, [B, L, H, K] to [B, L, H, K]."""

  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, u: jax.Array) -> jax.Array:
    shape = (*u.shape[-2:], u.shape[-1])
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
    kernel = self.param("kernel", init, shape, self.param_dtype)
    bias = self.param(
      "bias", nn.initializers.zeros, shape[:2], self.param_dtype
    )
    y = jnp.einsum("blhi,hij->blhj", u, kernel.astype(u.dtype))
    return y + bias.astype(u.dtype)[None, None]


def _rates(key, shape, dtype):
  """Lambda for which exp(-c softplus(Lambda)) is uniform in [0.9, 0.999]."""
  decay = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
  # The inverse of softplus.
  return jnp.log(jnp.expm1(-jnp.log(decay) / _SHARPNESS))
