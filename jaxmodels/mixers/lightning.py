"""Lightning attention: fixed decays that depend on the layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, divide, merge_heads
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention

__all__ = ["LightningAttention"]


class LightningAttention(Mixer):
  """Linear attention with a fixed decay per head, slower in later layers.

  Per head h = 1, ..., H of layer l of N, with x_t the input and S_t [K, V] the
  state:

    q_t, k_t, v_t = SiLU(W_q x_t), SiLU(W_k x_t), SiLU(W_v x_t)
    S_t = exp(-s) S_{t-1} + k_t v_t^T
    s = 2^(-8 h / H) (1 - l / (N - 1 + 1e-5) + 1e-5),  l = 0, ..., N - 1
    y_t = W_o (sigmoid(W_g x_t) * RMSNorm(concat_heads(S_t^T q_t)))

  Qin et al. 2024, "Lightning Attention-2: A Free Lunch for Handling Unlimited
  Sequence Lengths in Large Language Models", arXiv:2401.04658. The decays, the
  gate, and queries without a scale are those of MiniMax-01 (MiniMax 2025,
  arXiv:2501.08313). Outside of a stack the layer is the first. Departure: LeCun
  initialisation.

  The other fields are those of `Mixer`; the state is [B, H, K, V].

  Attributes:
    heads: H.
    head_width: K and V, by default D / H.
  """

  heads: int = 4
  head_width: int | None = None

  def mix(
    self,
    x: jax.Array,
    state: jax.Array | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
  ) -> tuple[jax.Array, jax.Array]:
    """The equation above."""
    check_fields(self, "heads", "head_width")
    width = self.head_width or divide(self, "heads", self.width, "D")
    q, k, v = (
      nn.silu(self.heads_of(name, x, self.heads, width))
      for name in ("query", "key", "value")
    )
    slopes = 2.0 ** (-8 * np.arange(1, self.heads + 1) / self.heads)
    place = jnp.asarray(layer, self.wide) / (depth - 1 + 1e-5)
    decay = -jnp.asarray(slopes, self.wide) * (1 - place + 1e-5)
    y, last = self.run(
      linear_attention,
      q,
      k,
      v,
      jnp.broadcast_to(decay[None, None], (*x.shape[:2], self.heads)),
      state=state,
      segment_ids=segment_ids,
    )
    gate = nn.sigmoid(self.dense("output_gate", self.heads * width)(x))
    return self.project_out(gate * self.new_norm()(merge_heads(y))), last
