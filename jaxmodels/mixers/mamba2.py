"""Mamba-2, the state-space duality mixer."""

import functools
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
from jaxmodels.layers.gates import negative_decay, softplus_decay
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba2", "Mamba2State"]


@serializable
class Mamba2State(NamedTuple):
  """The convolution state [B, W - 1, E + 2 G N] and the state [B, H, N, P]."""

  convolution_state: jax.Array
  state: jax.Array


class Mamba2(Mixer):
  """A selective state-space model with one decay per head.

  E = expand D channels form H = E / P heads of width P. The heads form G
  groups, and the heads of a group share B and C, of N channels each. Per head,
  with S_t [N, P] the state:

    z, u, B, C, d = W_i x;  (u, B, C) = SiLU(conv(u, B, C) + b)
    dt_t = softplus(d_t + dt_bias),  A = -exp(A_log)
    S_t = exp(dt_t A) S_{t-1} + B_t (dt_t u_t)^T
    y_t = S_t^T C_t + D_skip u_t
    out = W_o RMSNorm_group(y * SiLU(z))

  Dao & Gu 2024, "Transformers are SSMs", arXiv:2405.21060. It is linear
  attention with a decay per head, q = C, k = B and v = dt u. As in the
  published code, exp(A_log) is initially uniform in [1, 16], softplus(dt_bias)
  is log-uniform in [0.001, 0.1], and D_skip is 1. Departures: LeCun
  initialisation, and no clipping of dt to a range.

  With `negative_eigenvalues` the factor on S_{t-1} is 2 exp(dt_t A) - 1, so
  that a token may flip the sign of a state (Grazzi et al. 2024,
  arXiv:2411.12537).

  The other fields are those of `Mixer`.

  Attributes:
    expand: E / D.
    head_width: P, a divisor of E.
    state_width: N.
    groups: G, a divisor of the number of heads.
    kernel_width: W, the kernel width of the convolution.
    negative_eigenvalues: Whether decays reach from -1 to 1, not from 0 to 1.
  """

  expand: int = 2
  head_width: int = 64
  state_width: int = 128
  groups: int = 1
  kernel_width: int = 4
  negative_eigenvalues: bool = False

  def mix(
    self, x: jax.Array, state: Mamba2State | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Mamba2State]:
    """The equation above."""
    inner, heads, shared = self._sizes()
    z = self.dense("gate", inner)(x)
    convolution = self.new_convolution(
      "convolution", self.kernel_width, use_bias=True
    )
    y, convolution_state = convolution(
      self.dense("input", inner + 2 * shared)(x),
      None if state is None else state.convolution_state,
      segment_ids=segment_ids,
    )
    u, b, c = jnp.split(y, (inner, inner + shared), -1)
    u = split_heads(u, heads)
    logits = self.dense("step", heads, dtype=self.wide)(x)
    decay, logits = softplus_decay(self, logits, heads, rates=(1.0, 16.0))
    step = nn.softplus(logits)
    b, c = (split_heads(part, self.groups) for part in (b, c))
    sign = None
    if self.negative_eigenvalues:
      decay, sign = negative_decay(decay)
    y, last = self.run(
      functools.partial(linear_attention, decay_sign=sign),
      c,
      b,
      u.astype(step.dtype) * step[..., None],
      decay,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    skip = self.param("D", nn.initializers.ones, (heads,), self.param_dtype)
    skip = skip.astype(y.dtype)[None, None, :, None]
    y = merge_heads(y + skip * u.astype(y.dtype))
    y = self.new_norm(groups=self.groups)(y * nn.silu(z).astype(y.dtype))
    return self.project_out(y), Mamba2State(convolution_state, last)

  def _sizes(self) -> tuple[int, int, int]:
    """E, H and G N, after a check of all fields."""
    sizes = ("expand", "head_width", "state_width", "groups", "kernel_width")
    check_fields(self, *sizes)
    inner = self.expand * self.width
    heads = divide(self, "head_width", inner, "expand * D")
    divide(self, "groups", heads, "the number of heads")
    return inner, heads, self.groups * self.state_width
