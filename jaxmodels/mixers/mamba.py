"""Mamba, the first selective state-space mixer."""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, divide, step_bias
from jaxmodels.layers.gates import low_rank
from jaxmodels.layers.mlp import activation_of
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import selective_scan
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba", "MambaState"]

NORMS = ("none", "scaled", "unscaled")


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

  `step_norms` puts an RMSNorm after W_1, W_B and W_C: "unscaled" has no learned
  scale, as in FalconMamba (Zuo et al. 2024, arXiv:2410.05355), and "scaled" has
  one, as in Jamba (Lieber et al. 2024, arXiv:2403.19887). `norm_epsilon` is
  that of these norms.

  The other fields are those of `Mixer`.

  Attributes:
    expand: E / D, unless `inner_width` is given.
    state_width: N.
    step_rank: The rank of W_2 W_1, by default D / 16, rounded up.
    kernel_width: W, the kernel width of the convolution.
    negative_eigenvalues: Whether a_t reaches from -1 to 1, not from 0 to 1.
    inner_width: E, by default expand D.
    step_norms: The norms of W_1 u, B and C: "none", "scaled" or "unscaled".
    use_bias: Whether W_z, W_u and W_o have a bias, initially zero.
    convolution_bias: Whether the convolution has a bias.
    activation: The function after the convolution, a name of
      `jaxmodels.layers.mlp.ACTIVATIONS`; z keeps its SiLU.
    step_limits: The least and the largest dt; values outside are clipped.
    heads: The number of parts of u, each of which has W_1, W_2, W_B and W_C of
      its own; in Zamba 2 (Glorioso et al. 2024, arXiv:2405.16712).
  """

  expand: int = 2
  state_width: int = 16
  step_rank: int | None = None
  kernel_width: int = 4
  negative_eigenvalues: bool = False
  inner_width: int | None = None
  step_norms: str = "none"
  use_bias: bool = False
  convolution_bias: bool = True
  activation: str = "silu"
  step_limits: tuple[float, float] = (0.0, math.inf)
  heads: int = 1

  def mix(
    self, x: jax.Array, state: MambaState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, MambaState]:
    """The equation above."""
    inner = self._inner()
    z = self.dense("gate", inner, use_bias=self.use_bias)(x)
    convolution = self.new_convolution(
      "convolution",
      self.kernel_width,
      use_bias=self.convolution_bias,
      activation=activation_of(self),
    )
    u, convolution_state = convolution(
      self.dense("input", inner, use_bias=self.use_bias)(x),
      None if state is None else state.convolution_state,
      segment_ids=segment_ids,
    )
    y, last = self._scan(u, None if state is None else state.state, segment_ids)
    y = self.project_out(y * nn.silu(z), use_bias=self.use_bias)
    return y, MambaState(convolution_state, last)

  @nn.nowrap
  def _inner(self) -> int:
    """E, after a check of all fields."""
    sizes = ("expand", "inner_width", "state_width", "step_rank")
    check_fields(self, *sizes, "kernel_width", "heads")
    checks.require(
      self.step_norms in NORMS,
      f"Mamba: step_norms must be one of {', '.join(NORMS)}, got "
      f"{self.step_norms!r}",
    )
    low, high = self.step_limits
    checks.require(
      0 <= low < high,
      "Mamba: step_limits must be two increasing numbers of at least 0, got "
      f"{self.step_limits!r}",
    )
    inner = self.inner_width or self.expand * self.width
    divide(self, "heads", inner, "the inner width")
    return inner

  @nn.nowrap
  def _scan(
    self,
    u: jax.Array,
    state: jax.Array | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """The y [B, L, E] of u [B, L, E], and the state [B, E, N]."""
    inner = u.shape[-1]
    rate = self.wide_param("A_log", _log_arange, (inner, self.state_width))
    skip = self.wide_param("D", nn.initializers.ones, (inner,))
    bias = self.wide_param("dt_bias", step_bias(1e-3, 1e-1), (inner,))
    if self.heads == 1:
      return self._scan_head(u, rate, skip, bias, state, segment_ids)
    size = inner // self.heads
    ys, states = [], []
    for head in range(self.heads):
      cut = slice(head * size, (head + 1) * size)
      y, last = self._scan_head(
        u[..., cut],
        rate[cut],
        skip[cut],
        bias[cut],
        None if state is None else state[:, cut],
        segment_ids,
        end=f"_{head}",
      )
      ys.append(y)
      states.append(last)
    return jnp.concatenate(ys, -1), jnp.concatenate(states, 1)

  @nn.nowrap
  def _scan_head(
    self,
    u: jax.Array,
    rate: jax.Array,
    skip: jax.Array,
    bias: jax.Array,
    state: jax.Array | None,
    segment_ids: jax.Array | None,
    end: str = "",
  ) -> tuple[jax.Array, jax.Array]:
    """`_scan` of one head; the names of its submodules get the `end`."""
    b, c = (
      self._normalised(
        f"{name}_norm{end}", self.dense(name + end, self.state_width)(u)
      )
      for name in ("B", "C")
    )
    return self.run(
      functools.partial(
        selective_scan, negative_eigenvalues=self.negative_eigenvalues
      ),
      u,
      self._step(u, bias, end),
      -jnp.exp(rate),
      b,
      c,
      skip,
      state=state,
      segment_ids=segment_ids,
    )

  @nn.nowrap
  def _normalised(self, name: str, x: jax.Array) -> jax.Array:
    """The norm that `step_norms` names, of [B, L, F]."""
    if self.step_norms == "none":
      return x
    scaled = self.step_norms == "scaled"
    return self.new_norm(name, use_scale=scaled)(x)

  @nn.nowrap
  def _step(self, u: jax.Array, bias: jax.Array, end: str) -> jax.Array:
    """The step sizes dt [B, L, F] of u [B, L, F]."""
    rank = self.step_rank or -(-self.width // 16)
    logits = low_rank(
      self,
      u,
      rank,
      u.shape[-1],
      (f"step_down{end}", f"step_up{end}"),
      activation=functools.partial(self._normalised, f"step_norm{end}"),
    )
    step = nn.softplus(logits + bias[None, None])
    low, high = self.step_limits
    return step if (low, high) == (0, math.inf) else jnp.clip(step, low, high)


def _log_arange(key, shape, dtype):
  """The logs of 1, ..., N for every channel: the rates of S4D-Real."""
  del key
  rates = np.log(np.arange(1, shape[-1] + 1))
  return jnp.broadcast_to(jnp.asarray(rates, dtype), shape)
