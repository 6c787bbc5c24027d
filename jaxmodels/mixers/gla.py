"""Gated linear attention."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_input,
  check_positive,
  divide,
  merge_heads,
  projection,
  split_heads,
  wide,
)
from jaxmodels.layers.norms import RMSNorm
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["GLA", "GLAState"]


@serializable
class GLAState(NamedTuple):
  """The memory [B, H, K, V]."""

  memory: jax.Array


class GLA(nn.Module):
  """Linear attention with a decay for every key channel.

  Per head, with x_t the input and S_t [K, V] the memory:

    q_t, k_t, v_t = W_q x_t / sqrt(K), W_k x_t, W_v x_t
    a_t = sigmoid(W_2 W_1 x_t + b)^(1 / temperature)      [K]
    S_t = diag(a_t) S_{t-1} + k_t v_t^T
    y_t = W_o concat_heads(SiLU(W_r x_t) * RMSNorm(S_t^T q_t))

  Yang et al. 2023, "Gated Linear Attention Transformers with
  Hardware-Efficient Training", arXiv:2312.06635. W_2 W_1 has the rank
  `gate_rank`. Departures: RMSNorm a head in place of LayerNorm and no bias
  in the output gate (as the authors' later code), LeCun initialisation.

  Attributes:
    width: D.
    heads: H.
    key_width: K, by default D / (2 H) as in the paper.
    value_width: V, by default D / H.
    gate_rank: Of the decay's projection.
    temperature: The root taken of the sigmoid; decays start near 1.
    output_scale: Factor on the initial weights of the output projection.
    method: Of the op.
    chunk_size: Of the op.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; decays and the memory are float32 or wider.
    param_dtype: Of the parameters.
  """

  width: int
  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate_rank: int = 16
  temperature: float = 16.0
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
    state: GLAState | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, GLAState]:
    """Mixes along L.

    Args:
      x: [B, L, D].
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.

    Returns:
      y: [B, L, D], and the state.
    """
    key_width, value_width = self._widths()
    check_input(self, x, segment_ids)

    def heads(name: str, features: int) -> jax.Array:
      y = projection(self, self.heads * features, name)(x)
      return split_heads(y, self.heads)

    q = heads("query", key_width) * key_width**-0.5
    k, v = heads("key", key_width), heads("value", value_width)
    y, memory = linear_attention(
      q,
      k,
      v,
      self._log_decay(x, key_width),
      None if state is None else state.memory,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    y = RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(y)
    y = merge_heads(y * nn.silu(heads("output_gate", value_width)))
    output = projection(self, self.width, "output", scale=self.output_scale)
    return output(y), GLAState(memory)

  def _log_decay(self, x: jax.Array, key_width: int) -> jax.Array:
    gates = wide(self.dtype)
    low = projection(self, self.gate_rank, "decay_down", dtype=gates)
    high = projection(
      self, self.heads * key_width, "decay_up", use_bias=True, dtype=gates
    )
    logits = high(low(x.astype(gates)))
    return split_heads(nn.log_sigmoid(logits) / self.temperature, self.heads)

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    check_fields(self, "heads", "key_width", "value_width", "gate_rank")
    check_positive(self, "temperature")
    checks.require(
      self.key_width is not None or self.width % 2 == 0,
      f"GLA: width must be even where key_width is None, got {self.width}",
    )
    key_width = self.key_width or divide(
      self, "heads", self.width // 2, "D / 2"
    )
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return key_width, value_width

  def init_state(self, batch_size: int) -> GLAState:
    """Zeros."""
    shape = (batch_size, self.heads, *self._widths())
    return GLAState(jnp.zeros(shape, wide(self.dtype)))
