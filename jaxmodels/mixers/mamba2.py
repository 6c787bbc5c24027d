"""Mamba-2, the state-space duality mixer."""

import functools
import math
import numbers
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import (
  check_fields,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.gates import negative_decay, softplus_decay
from jaxmodels.layers.mlp import activation_of
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba2", "Mamba2State"]

NORMS = ("after", "before", "none")


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
  is log-uniform in [0.001, 0.1], and D_skip is 1. Departure: LeCun
  initialisation.

  With `negative_eigenvalues` the factor on S_{t-1} is 2 exp(dt_t A) - 1, so
  that a token may flip the sign of a state (Grazzi et al. 2024,
  arXiv:2411.12537).

  The last fields are options of published models: the limits of dt are those of
  Nemotron-H, and Falcon-H1 (Zuo et al. 2025, arXiv:2507.22448) may have no
  norm, and has a factor per part of the input projection.

  The other fields are those of `Mixer`.

  Attributes:
    expand: E / D, unless `heads` is given.
    head_width: P, a divisor of E.
    state_width: N.
    groups: G, a divisor of the number of heads.
    kernel_width: W, the kernel width of the convolution.
    negative_eigenvalues: Whether decays reach from -1 to 1, not from 0 to 1.
    heads: H, by default expand D / P. If it is given, E = H P.
    step_limits: The least and the largest dt; values outside are clipped.
    gated_norm: "after" for the norm of y * SiLU(z), as above, "before" for
      RMSNorm_group(y) * SiLU(z), or "none" for y * SiLU(z).
    input_bias: Whether W_i has a bias, initially zero.
    output_bias: Whether W_o has a bias, initially zero.
    convolution_bias: Whether the convolution has the bias b.
    activation: The function after the convolution, a name of
      `jaxmodels.layers.mlp.ACTIVATIONS`; z keeps its SiLU.
    input_factors: Factors on z, u, B, C and d (and their biases) before the
      convolution; None for 1.
  """

  expand: int = 2
  head_width: int = 64
  state_width: int = 128
  groups: int = 1
  kernel_width: int = 4
  negative_eigenvalues: bool = False
  heads: int | None = None
  step_limits: tuple[float, float] = (0.0, math.inf)
  gated_norm: str = "after"
  input_bias: bool = False
  output_bias: bool = False
  convolution_bias: bool = True
  activation: str = "silu"
  input_factors: tuple[float, float, float, float, float] | None = None

  def mix(
    self, x: jax.Array, state: Mamba2State | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Mamba2State]:
    """The equation above."""
    activation = activation_of(self)
    inner, heads, shared = self._sizes()
    z, projected, logits = self._projected(x, inner, heads, shared)
    convolution = self.new_convolution(
      "convolution",
      self.kernel_width,
      use_bias=self.convolution_bias,
      activation=activation,
    )
    y, convolution_state = convolution(
      projected,
      None if state is None else state.convolution_state,
      segment_ids=segment_ids,
    )
    u, b, c = jnp.split(y, (inner, inner + shared), -1)
    u = split_heads(u, heads)
    decay, logits = softplus_decay(
      self, logits, heads, rates=(1.0, 16.0), limits=self.step_limits
    )
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
    y = self._gated(y, nn.silu(z).astype(y.dtype))
    y = self.project_out(y, use_bias=self.output_bias)
    return y, Mamba2State(convolution_state, last)

  @nn.nowrap
  def _projected(
    self, x: jax.Array, inner: int, heads: int, shared: int
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The parts z [B, L, E], u B C [B, L, E + 2 G N], and d [B, L, H]."""
    bias = self.input_bias
    z = self.dense("gate", inner, use_bias=bias)(x)
    y = self.dense("input", inner + 2 * shared, use_bias=bias)(x)
    d = self.dense("step", heads, dtype=self.wide, use_bias=bias)(x)
    if self.input_factors is None:
      return z, y, d
    a, *parts, e = self.input_factors
    factors = np.repeat(parts, (inner, shared, shared))
    return z * a, y * factors.astype(y.dtype)[None, None], d * e

  @nn.nowrap
  def _gated(self, y: jax.Array, gate: jax.Array) -> jax.Array:
    """The product y * gate, [B, L, E], and the norm that `gated_norm` names."""
    if self.gated_norm == "none":
      return (y * gate).astype(self.dtype)
    norm = self.new_norm(groups=self.groups)
    if self.gated_norm == "after":
      return norm(y * gate)
    return norm(y) * gate.astype(self.dtype)

  @property
  def inner_width(self) -> int:
    """E."""
    if self.heads is None:
      return self.expand * self.width
    return self.heads * self.head_width

  def _sizes(self) -> tuple[int, int, int]:
    """E, H and G N, after a check of all fields."""
    sizes = ("expand", "head_width", "state_width", "groups", "kernel_width")
    check_fields(self, *sizes, "heads")
    low, high = self.step_limits
    checks.require(
      0 <= low < high,
      "Mamba2: step_limits must be two increasing numbers of at least 0, got "
      f"{self.step_limits!r}",
    )
    checks.require(
      self.gated_norm in NORMS,
      f"Mamba2: gated_norm must be one of {', '.join(NORMS)}, got "
      f"{self.gated_norm!r}",
    )
    factors = self.input_factors
    checks.require(
      factors is None
      or (
        len(factors) == 5 and all(isinstance(f, numbers.Real) for f in factors)
      ),
      f"Mamba2: input_factors must be five numbers, got {factors!r}",
    )
    inner = self.inner_width
    heads = divide(self, "head_width", inner, "expand * D")
    divide(self, "groups", heads, "the number of heads")
    return inner, heads, self.groups * self.state_width
