"""Softmax attention, full or in a window, the partner of linear mixers."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_input,
  divide,
  merge_heads,
  projection,
  split_heads,
  wide,
)
from jaxmodels.layers.norms import RMSNorm
from jaxmodels.layers.rotary import advance_positions, rotate
from jaxmodels.ops import Cache, attention
from jaxmodels.ops.exporting import serializable

__all__ = ["SoftmaxAttention", "SoftmaxAttentionState"]


@serializable
class SoftmaxAttentionState(NamedTuple):
  """The cache of keys and values, and how many tokens came before, [B]."""

  cache: Cache
  position: jax.Array


class SoftmaxAttention(nn.Module):
  """Causal attention with rotary positions and grouped heads.

    q_t, k_t = rotate(W_q x_t, t) / sqrt(K), rotate(W_k x_t, t)
    y_t = W_o concat_heads(sum_s softmax_s(q_t . k_s) W_v x_s)

  over the window - 1 tokens before t in its segment, and t. Vaswani et al.
  2017, arXiv:1706.03762; rotary positions: Su et al. 2021, arXiv:2104.09864,
  counted from the start of each segment; grouped heads: Ainslie et al. 2023,
  arXiv:2305.13245; RMSNorm of q and k a head: Henry et al. 2020,
  arXiv:2010.04245, in the form that most models use now (a learned scale a
  channel).

  Full attention has a bound, too: `max_length`, so that its cache has a fixed
  size and decoding one program. Beyond it, it is a window of that size.

  Attributes:
    width: D.
    heads: H, the query heads.
    kv_heads: Key and value heads, a divisor of H; H by default.
    head_width: K, by default D / H; even.
    window: Tokens a query sees, itself among them; None for `max_length`.
    max_length: As many a query sees where `window` is None.
    qk_norm: Whether to norm queries and keys before they are rotated.
    rotary_base: Of the wavelengths, see `rotate`.
    output_scale: Factor on the initial weights of the output projection.
    method: Of the op.
    chunk_size: Of the op.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; scores, softmax and cache are float32 or wider.
    param_dtype: Of the parameters.
  """

  width: int
  heads: int = 4
  kv_heads: int | None = None
  head_width: int | None = None
  window: int | None = None
  max_length: int = 2048
  qk_norm: bool = False
  rotary_base: float = 10_000.0
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
    state: SoftmaxAttentionState | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, SoftmaxAttentionState]:
    """Mixes along L.

    Args:
      x: [B, L, D].
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers that only grow, or None.

    Returns:
      y: [B, L, D], and the state.
    """
    check_input(self, x, segment_ids)
    kv_heads, head_width = self._sizes()
    # Zeros made from x, so that they lie on a mesh as x does.
    before = jnp.sum(jnp.zeros_like(x, jnp.int32), (1, 2))
    if state is not None:
      before = state.position
    positions, after = advance_positions(
      before, x.shape[1], segment_ids, self.axis_name
    )

    def heads(name: str, count: int) -> jax.Array:
      return split_heads(projection(self, count * head_width, name)(x), count)

    def turned(name: str, count: int) -> jax.Array:
      y = heads(name, count)
      if self.qk_norm:
        y = RMSNorm(
          dtype=self.dtype, param_dtype=self.param_dtype, name=f"{name}_norm"
        )(y)
      return rotate(y, positions, self.rotary_base)

    y, cache = attention(
      turned("query", self.heads) * head_width**-0.5,
      turned("key", kv_heads),
      heads("value", kv_heads),
      self.window or self.max_length,
      None if state is None else state.cache,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    output = projection(self, self.width, "output", scale=self.output_scale)
    return output(merge_heads(y)), SoftmaxAttentionState(cache, after)

  def _sizes(self) -> tuple[int, int]:
    """Key heads and K."""
    if self.kv_heads is not None:
      divide(self, "kv_heads", self.heads, "heads")
    head_width = self.head_width or divide(self, "heads", self.width, "D")
    return self.kv_heads or self.heads, head_width

  def init_state(self, batch_size: int) -> SoftmaxAttentionState:
    """An empty cache."""
    kv_heads, head_width = self._sizes()
    past = (batch_size, (self.window or self.max_length) - 1)
    entries = jnp.zeros((*past, kv_heads, head_width), wide(self.dtype))
    cache = Cache(entries, entries, jnp.zeros(past, bool))
    return SoftmaxAttentionState(cache, jnp.zeros((batch_size,), jnp.int32))
