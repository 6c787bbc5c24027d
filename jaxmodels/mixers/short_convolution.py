"""A short convolution between two gates."""

import flax.linen as nn
import jax

from jaxmodels.layers.common import check_fields
from jaxmodels.mixers.mixer import Mixer

__all__ = ["GatedConvolution"]


class GatedConvolution(Mixer):
  """A short convolution of gated inputs, whose output is gated again.

  With x_t the input, per channel:

    u_t = B_t * W_u x_t,  B_t, C_t = W_B x_t, W_C x_t
    y_t = W_o (C_t * sum_j kernel_j u_{t-j}),  j = 0, ..., W - 1

  The local layer of LFM2 (Liquid AI 2025, arXiv:2511.23404), with W = 3 and no
  activation. Based (Arora et al. 2024, arXiv:2402.18668) has one with the gate
  C alone. Departure: LeCun initialisation.

  The other fields are those of `Mixer`; the state holds u of the last W - 1
  tokens, [B, W - 1, D].

  Attributes:
    kernel_width: W.
    input_gate: Whether there is the gate B.
    use_bias: Whether the projections and the convolution have biases.
  """

  kernel_width: int = 3
  input_gate: bool = True
  use_bias: bool = False

  def mix(
    self, x: jax.Array, state: jax.Array | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """The equation above."""
    check_fields(self, "kernel_width")

    def dense(name: str, scale: float = 1.0) -> nn.Dense:
      return self.dense(name, self.width, use_bias=self.use_bias, scale=scale)

    u = dense("input")(x)
    if self.input_gate:
      u = dense("gate")(x) * u
    convolve = self.new_convolution(
      "convolution",
      self.kernel_width,
      use_bias=self.use_bias,
      activation=lambda x: x,
    )
    y, last = convolve(u, state, segment_ids=segment_ids)
    y = dense("output_gate")(x) * y
    return dense("output", self.output_scale)(y), last
