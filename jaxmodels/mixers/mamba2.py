"""Mamba-2, the state-space duality mixer."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_input,
  divide,
  merge_heads,
  projection,
  split_heads,
  step_bias,
  wide,
)
from jaxmodels.layers.gates import log_decay
from jaxmodels.layers.norms import RMSNorm
from jaxmodels.layers.short_convolution import ShortConvolution, zero_tail
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Mamba2", "Mamba2State"]


@serializable
class Mamba2State(NamedTuple):
  """Tail [B, W - 1, E + 2 G N] of the convolution, memory [B, H, N, P]."""

  tail: jax.Array
  memory: jax.Array


class Mamba2(nn.Module):
  """A selective state space with one decay a head.

  With E = expand D channels in heads of P, and G groups of heads that share
  B and C (N channels each); per head, S_t [N, P] the memory:

    z, u, B, C, d = W_i x;  (u, B, C) = SiLU(conv(u, B, C) + b)
    dt_t = softplus(d_t + dt_bias),  A = -exp(A_log)
    S_t = exp(dt_t A) S_{t-1} + B_t (dt_t u_t)^T
    y_t = S_t^T C_t + D_skip u_t
    out = W_o RMSNorm_group(y * SiLU(z))

  Dao & Gu 2024, "Transformers are SSMs", arXiv:2405.21060. It is linear
  attention with a head decay, q = C, k = B, v = dt u. exp(A_log) starts
  uniform in [1, 16], softplus(dt_bias) log-uniform in [0.001, 0.1], D_skip at
  1 as in the published code. Departures: LeCun initialisation, and steps are
  not clipped to a range.

  Attributes:
    width: D.
    expand: E / D.
    head_width: P, a divisor of E.
    state_width: N.
    groups: G, a divisor of the number of heads.
    kernel_width: W of the convolution.
    output_scale: Factor on the initial weights of the output projection.
    method: Of the op.
    chunk_size: Of the op.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; steps, decays and the memory are float32 or
      wider.
    param_dtype: Of the parameters.
  """

  width: int
  expand: int = 2
  head_width: int = 64
  state_width: int = 128
  groups: int = 1
  kernel_width: int = 4
  output_scale: float = 1.0
  method: str = "auto"
  chunk_size: int | None = None
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: Mamba2State | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, Mamba2State]:
    """Mixes along L.

    Args:
      x: [B, L, D].
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.

    Returns:
      y: [B, L, D], and the state.
    """
    inner, heads, shared = self._sizes()
    check_input(self, x, segment_ids)
    z = projection(self, inner, "gate")(x)
    y = projection(self, inner + 2 * shared, "input")(x)
    y, tail = self._convolution("convolution")(
      y, None if state is None else state.tail, segment_ids=segment_ids
    )
    u, b, c = jnp.split(y, (inner, inner + shared), -1)
    u, step, gate = split_heads(u, heads), *self._steps(x, heads)
    b, c = (
      jnp.repeat(split_heads(part, self.groups), heads // self.groups, 2)
      for part in (b, c)
    )
    y, memory = linear_attention(
      c,
      b,
      u.astype(step.dtype) * step[..., None],
      gate,
      None if state is None else state.memory,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    skip = self.param("D", nn.initializers.ones, (heads,), self.param_dtype)
    skip = skip.astype(y.dtype)[None, None, :, None]
    y = merge_heads(y + skip * u.astype(y.dtype))
    norm = RMSNorm(
      groups=self.groups,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="norm",
    )
    y = norm(y * nn.silu(z).astype(y.dtype))
    output = projection(self, self.width, "output", scale=self.output_scale)
    return output(y), Mamba2State(tail, memory)

  def _steps(self, x: jax.Array, heads: int) -> tuple[jax.Array, jax.Array]:
    """The step dt and the log decay dt A, both [B, L, H]."""
    gates = wide(self.dtype)

    def log_of_uniform(key, shape, dtype):
      return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))

    init = step_bias(1e-3, 1e-1)
    bias = self.param("dt_bias", init, (heads,), self.param_dtype)
    rate = self.param("A_log", log_of_uniform, (heads,), self.param_dtype)
    logits = projection(self, heads, "step", dtype=gates)(x.astype(gates))
    logits = logits + bias.astype(gates)[None, None]
    decay = log_decay(rate.astype(gates)[None, None], logits)
    return nn.softplus(logits), decay

  def _convolution(self, name: str) -> ShortConvolution:
    return ShortConvolution(
      self.kernel_width,
      axis_name=self.axis_name,
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def _sizes(self) -> tuple[int, int, int]:
    """E, H and G N, once all fields are checked."""
    sizes = ("expand", "head_width", "state_width", "groups", "kernel_width")
    check_fields(self, *sizes)
    inner = self.expand * self.width
    heads = divide(self, "head_width", inner, "expand * D")
    divide(self, "groups", heads, "the number of heads")
    return inner, heads, self.groups * self.state_width

  def init_state(self, batch_size: int) -> Mamba2State:
    """Zeros."""
    inner, heads, shared = self._sizes()
    memory = (batch_size, heads, self.state_width, self.head_width)
    return Mamba2State(
      zero_tail(batch_size, self.kernel_width, inner + 2 * shared, self.dtype),
      jnp.zeros(memory, wide(self.dtype)),
    )
