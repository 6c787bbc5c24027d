"""Softmax attention that teaches Hedgehog's feature maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.feature_maps import Hedgehog
from jaxmodels.mixers.softmax_attention import SoftmaxAttention
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.segments import count_changes

__all__ = ["HedgehogTeacher", "hedgehog_loss"]


@by_letters(
  "", q="B L H K", k="B L H K", query_features="B L H F",
  key_features="B L H F",
)  # fmt: skip
def hedgehog_loss(
  q: jax.Array,
  k: jax.Array,
  query_features: jax.Array,
  key_features: jax.Array,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
) -> jax.Array:
  """The cross-entropy of linear attention's weights to softmax attention's.

      - mean_t sum_s p_ts log(f_t . g_s / sum_r f_t . g_r),  p = softmax(q k^T)

  over the tokens s and r of the segment of t, up to t. Zhang et al. 2024, "The
  Hedgehog & the Porcupine", arXiv:2402.04347. It computes all L x L weights.

  Args:
    q: [B, L, H, K], with its scale.
    k: [B, L, H, K].
    query_features: f [B, L, H, F], of at least 0.
    key_features: g [B, L, H, F], of at least 0.
    segment_ids: [B, L] or None.
    reverse: Whether tokens see later tokens in place of earlier ones.

  Returns:
    A scalar: the mean over tokens, heads and the batch.
  """
  seen = np.tri(q.shape[1], dtype=bool)[None, None]
  if reverse:
    seen = seen.mT
  if segment_ids is not None:
    ids = count_changes(segment_ids, segment_ids[:, :1])
    seen = seen & (ids[:, None, :, None] == ids[:, None, None, :])
  scores = jnp.einsum("bthk,bshk->bhts", q, k)
  p = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
  products = jnp.einsum("bthf,bshf->bhts", query_features, key_features)
  products = jnp.where(seen, products, 0)
  tiny = jnp.finfo(products.dtype).tiny
  total = jnp.sum(products, -1, keepdims=True)
  logs = jnp.log(jnp.maximum(products, tiny)) - jnp.log(
    jnp.maximum(total, tiny)
  )
  return -jnp.mean(jnp.sum(jnp.where(seen, p * logs, 0), -1))


class HedgehogTeacher(SoftmaxAttention):
  """Softmax attention beside feature maps that learn its weights.

  The outputs are those of `SoftmaxAttention`. The layer sows the loss
  "hedgehog", see `hedgehog_loss`, into "losses". Its gradient reaches only the
  parameters of the two maps, "query_map" and "key_map". All parameters have the
  names that they have in `LinearAttention` with the map "hedgehog". Zhang et
  al. 2024, arXiv:2402.04347. `jaxmodels.models.linearize` uses it.

  The other fields are those of `SoftmaxAttention`, without grouped heads.

  Attributes:
    features: The width of the maps, K by default.
  """

  features: int | None = None

  @nn.nowrap
  def _observe(
    self,
    q: jax.Array,
    k: jax.Array,
    scale: float,
    segment_ids: jax.Array | None,
  ) -> None:
    """Maps q and k, and sows the loss."""
    q, k = (jax.lax.stop_gradient(u.astype(self.wide)) for u in (q, k))
    f, g = (
      Hedgehog(self.features, self.wide, self.param_dtype, name=name)(u)
      for name, u in (("query_map", q), ("key_map", k))
    )
    loss = hedgehog_loss(
      q * scale, k, f, g, segment_ids=segment_ids, reverse=self.reverse
    )
    self.sow("losses", "hedgehog", loss)
