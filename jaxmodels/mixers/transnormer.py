"""TransNormer: linear attention with a norm, and softmax inside of blocks."""

import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, divide, merge_heads
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.softmax_attention import SoftmaxAttentionState
from jaxmodels.ops import attention, linear_attention
from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.feature_maps import FEATURE_MAPS

__all__ = ["DiagAttention", "NormAttention"]


class NormAttention(Mixer):
  """Linear attention with a norm in place of the normaliser.

  Per head, with x_t the input and S_t [K, V] the state:

    q_t, k_t, v_t = phi(W_q x_t), phi(W_k x_t), W_v x_t
    S_t = S_{t-1} + k_t v_t^T
    y_t = W_o RMSNorm(concat_heads(S_t^T q_t))

  Qin et al. 2022, "The Devil in Linear Transformer", arXiv:2210.10340. The
  gradient of a division by the normaliser has no bound, because all scores of a
  row may be near 0. The gradient of the norm has the bound 1 / sqrt(epsilon).
  The paper's models use these layers in the second half of the stack, and
  `DiagAttention` in the first. Here the norm is over all heads together, as in
  the authors' later models. Departure: LeCun initialisation.

  The other fields are those of `Mixer`; the state is [B, H, K, V].

  Attributes:
    heads: H.
    feature_map: phi, a name of `jaxmodels.ops.feature_maps.FEATURE_MAPS`.
  """

  heads: int = 8
  feature_map: str = "elu_plus_one"

  def mix(
    self, x: jax.Array, state: jax.Array | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """The equation above."""
    check_fields(self, "heads")
    width = divide(self, "heads", self.width, "D")
    checks.require(
      self.feature_map in FEATURE_MAPS,
      f"NormAttention: feature_map must be one of {', '.join(FEATURE_MAPS)}, "
      f"got {self.feature_map!r}",
    )
    phi = FEATURE_MAPS[self.feature_map]
    y, last = self.run(
      linear_attention,
      phi(self.heads_of("query", x, self.heads, width)),
      phi(self.heads_of("key", x, self.heads, width)),
      self.heads_of("value", x, self.heads, width),
      state=state,
      segment_ids=segment_ids,
    )
    return self.project_out(self.new_norm()(merge_heads(y))), last


class DiagAttention(Mixer):
  """Softmax attention inside of blocks that do not overlap.

    q_t, k_t = W_q x_t / sqrt(K), W_k x_t
    y_t = W_o concat_heads(sum_s softmax_s(q_t . k_s) W_v x_s)

  over the tokens s of the block of t, up to t. Blocks have `block_size` tokens
  and count from the start of each segment (in reverse, from its end). Qin et
  al. 2022, "The Devil in Linear Transformer", arXiv:2210.10340, use these
  layers in the first half of the stack, where attention is local. Departure:
  LeCun initialisation.

  The other fields are those of `Mixer`. The state is a cache of
  `block_size` - 1 tokens, and the number of earlier tokens of the segment, [B].

  Attributes:
    heads: H.
    block_size: The number of tokens per block.
  """

  heads: int = 8
  block_size: int = 64

  def mix(
    self,
    x: jax.Array,
    state: SoftmaxAttentionState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, SoftmaxAttentionState]:
    """The equation above."""
    check_fields(self, "heads", "block_size")
    width = divide(self, "heads", self.width, "D")
    positions, after = self.positions(
      x, None if state is None else state.position, segment_ids
    )
    cache = None
    if state is not None:
      # The next token starts a block if the last one ended one.
      open_block = (state.position % self.block_size != 0)[:, None]
      cache = state.cache._replace(live=state.cache.live & open_block)
    y, cache = self.run(
      attention,
      self.heads_of("query", x, self.heads, width) * width**-0.5,
      self.heads_of("key", x, self.heads, width),
      self.heads_of("value", x, self.heads, width),
      self.block_size,
      state=cache,
      segment_ids=self._blocks(positions),
    )
    return self.project_out(y), SoftmaxAttentionState(cache, after)

  def _blocks(self, positions: jax.Array) -> jax.Array:
    """Ids of the blocks: where a block starts, from 1; 0 if in the state."""
    order = jnp.arange(positions.shape[1], dtype=positions.dtype)[None]
    if self.reverse:
      order = jnp.flip(order, 1)
    if self.axis_name is not None:
      rank = halo.rank(self.axis_name, self.reverse).astype(positions.dtype)
      order = order + rank * positions.shape[1]
    return jnp.maximum(order - positions % self.block_size + 1, 0)
