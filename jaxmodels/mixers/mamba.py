"""Mamba, the first selective state-space mixer."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, step_bias
from jaxmodels.layers.gates import low_rank
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import selective_scan
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba", "MambaState"]


@serializable
class MambaState(NamedTuple):
  """The convolution state [B, W - 1, E] and the state [B, E, N]."""

  convolution_state: jax.Array
  state: jax.Array


class Mamba(Mixer):
  """A selective state-space model with a state of N numbers per channel.

  For each of the E = expand D channels, with h_t [N] the state:

    z, u = W_z x, SiLU(conv(W_u x) + b)
    dt_t = softplus(W_2 W_1 u_t + dt_bias),  A = -exp(A_log)     [N]
    B_t, C_t = W_B u_t, W_C u_t                 [N], the same for all channels
    h_t = a_t * h_{t-1} + dt_t B_t u_t,  a_t = exp(dt_t A)
    y_t = C_t . h_t + D_skip u_t
    out = W_o (y * SiLU(z))

  Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State
  Spaces", arXiv:2312.00752. With `negative_eigenvalues`, a_t is
  2 exp(dt_t A) - 1, so that a token may flip the sign of a state (Grazzi et al.
  2024, arXiv:2411.12537); the write does not change. As in the published code,
  A is initially -1, ..., -N, softplus(dt_bias) is log-uniform in [0.001, 0.1],
  and D_skip is 1. Departure: LeCun initialisation.

  The other fields are those of `Mixer`; it has no norm.

  Attributes:
    expand: E / D.
    state_width: N.
    step_rank: The rank of W_2 W_1, by default D / 16, rounded up.
    kernel_width: W, the kernel width of the convolution.
    negative_eigenvalues: Whether a_t reaches from -1 to 1, not from 0 to 1.
  """

  expand: int = 2
  state_width: int = 16
  step_rank: int | None = None
  kernel_width: int = 4
  negative_eigenvalues: bool = False

  def mix(
    self, x: jax.Array, state: MambaState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, MambaState]:
    """The equation above."""
    check_fields(self, "expand", "state_width", "step_rank", "kernel_width")
    inner = self.expand * self.width
    z = self.dense("gate", inner)(x)
    convolution = self.new_convolution(
      "convolution", self.kernel_width, use_bias=True
    )
    u, convolution_state = convolution(
      self.dense("input", inner)(x),
      None if state is None else state.convolution_state,
      segment_ids=segment_ids,
    )
    rate = self.wide_param("A_log", _log_arange, (inner, self.state_width))
    y, last = self.run(
      functools.partial(
        selective_scan, negative_eigenvalues=self.negative_eigenvalues
      ),
      u,
      self._step(u),
      -jnp.exp(rate),
      self.dense("B", self.state_width)(u),
      self.dense("C", self.state_width)(u),
      self.wide_param("D", nn.initializers.ones, (inner,)),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    return self.project_out(y * nn.silu(z)), MambaState(convolution_state, last)

  @nn.nowrap
  def _step(self, u: jax.Array) -> jax.Array:
    """The step sizes dt [B, L, E]."""
    rank = self.step_rank or -(-self.width // 16)
    names = ("step_down", "step_up")
    logits = low_rank(self, u, rank, u.shape[-1], names)
    bias = self.wide_param("dt_bias", step_bias(1e-3, 1e-1), u.shape[-1:])
    return nn.softplus(logits + bias[None, None])


def _log_arange(key, shape, dtype):
  """The logs of 1, ..., N for every channel: the rates of S4D-Real."""
  del key
  rates = np.log(np.arange(1, shape[-1] + 1))
  return jnp.broadcast_to(jnp.asarray(rates, dtype), shape)
