"""Multi-head latent attention: the cache has one small vector per token."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
)
from jaxmodels.layers.rotary import rotate
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.softmax_attention import (
  MAX_LENGTH,
  check_length,
  within_cache,
)
from jaxmodels.ops.attention.latent import LatentCache, latent_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["LatentAttention", "LatentAttentionState"]

_REMEDY = "raise max_length (the cache grows with it)"


@serializable
class LatentAttentionState(NamedTuple):
  """The cache of latents, and how many tokens came before, [B]."""

  cache: LatentCache
  position: jax.Array


class LatentAttention(Mixer):
  """Softmax attention with keys and values from a latent vector per token.

    [c_t, r_t] = W_a x_t,  c_t <- RMSNorm(c_t),  r_t <- rotate(r_t, t)
    [k_t, v_t]_h = W_b^h c_t,  k_t^h <- [k_t^h, r_t]
    [q_t, p_t]_h = W_q^h x_t,  q_t^h <- [q_t^h, rotate(p_t^h, t)] / sqrt(K + R)
    y_t = W_o concat_heads(sum_{s <= t} softmax_s(q_t^h . k_s^h) v_s^h)

  DeepSeek-AI 2024, "DeepSeek-V2", arXiv:2405.04434. The cache holds c and r, C
  + R numbers per token in place of 2 H K. With a query rank, W_q x_t is W_q
  RMSNorm(W_d x_t). Without `rotary`, r and p are not rotated, so the mixer has
  no positions: the form of Kimi Linear (Kimi Team 2025, arXiv:2510.26692).
  Rotated pairs are channels i and i + R/2; the code of DeepSeek pairs 2i and 2i
  + 1, a permutation of the rows of W_q and W_a. The parameters have the names
  of that code.

  `max_length` is that of `SoftmaxAttention`. The other fields are those of
  `Mixer`.

  Attributes:
    heads: H.
    rank: C, by default 4 K.
    query_rank: The width of W_d x_t; None for queries without W_d.
    key_width: K, by default D / H.
    rotary_width: R, by default K / 2; even.
    value_width: The width of v per head, K by default.
    max_length: The most tokens of a segment; the cache has room for so many.
    rotary: Whether r and p are rotated.
    rotary_base: The base of the wavelengths, see `rotate`.
    scale: The factor on the scores, by default 1 / sqrt(K + R).
    bias: Whether W_a, W_d and W_o have biases.
  """

  heads: int = 4
  rank: int | None = None
  query_rank: int | None = None
  key_width: int | None = None
  rotary_width: int | None = None
  value_width: int | None = None
  max_length: int = MAX_LENGTH
  rotary: bool = True
  rotary_base: float = 10_000.0
  scale: float | None = None
  bias: bool = False

  def mix(
    self,
    x: jax.Array,
    state: LatentAttentionState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, LatentAttentionState]:
    """The equation above."""
    width, rest, values, rank = self._sizes()
    check_length(self, x.shape[1], _REMEDY)
    positions, after = self.positions(
      x, None if state is None else state.position, segment_ids
    )

    def rotated(y: jax.Array) -> jax.Array:
      return rotate(y, positions, self.rotary_base) if self.rotary else y

    q = self._queries(x, width + rest)
    q = jnp.concatenate([q[..., :width], rotated(q[..., width:])], -1)
    scale = (width + rest) ** -0.5 if self.scale is None else self.scale
    c = self.dense("kv_a_proj_with_mqa", rank + rest, use_bias=self.bias)(x)
    shared = rotated(c[..., None, rank:])[..., 0, :]
    c = self.new_norm("kv_a_layernorm")(c[..., :rank])
    expansion = _Expansion(
      self.heads, width + values, self.dtype, self.param_dtype, name="kv_b_proj"
    )
    y, cache = self.run(
      latent_attention,
      q * scale,
      jnp.concatenate([c, shared], -1),
      expansion(rank),
      self.max_length,
      state=None if state is None else state.cache,
      segment_ids=segment_ids,
    )
    y = self.dense(
      "o_proj", self.width, scale=self.output_scale, use_bias=self.bias
    )(merge_heads(y))
    if state is not None or is_open(x.shape[1]):
      y = within_cache(self, y, positions, _REMEDY)
    return y, LatentAttentionState(cache, after)

  @nn.nowrap
  def _queries(self, x: jax.Array, width: int) -> jax.Array:
    """The queries [B, L, H, width]."""
    if self.query_rank is None:
      return self.heads_of("q_proj", x, self.heads, width)
    low = self.dense("q_a_proj", self.query_rank, use_bias=self.bias)(x)
    low = self.new_norm("q_a_layernorm")(low)
    return self.heads_of("q_b_proj", low, self.heads, width)

  def _sizes(self) -> tuple[int, int, int, int]:
    """K, R, V and C, once all fields are checked."""
    check_fields(
      self, "heads", "rank", "query_rank", "key_width", "rotary_width",
      "value_width", "max_length",
    )  # fmt: skip
    check_positive(self, "rotary_base")
    width = self.key_width or divide(self, "heads", self.width, "D")
    rest = self.rotary_width or width // 2
    checks.require(
      rest % 2 == 0 or not self.rotary,
      f"{type(self).__name__}: rotary_width, key_width / 2 by default, must be "
      f"even, got {rest}",
    )
    return width, rest, self.value_width or width, self.rank or 4 * width


class _Expansion(nn.Module):
  """The matrix W_b, as [C, H, features], in the place of a dense map's."""

  heads: int
  features: int
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, rank: int) -> jax.Array:
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    shape = (rank, self.heads * self.features)
    kernel = self.param("kernel", init, shape, self.param_dtype)
    return kernel.astype(self.dtype).reshape(rank, self.heads, self.features)
