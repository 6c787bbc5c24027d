"""Mixture-of-head attention: each token chooses some of the heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields
from jaxmodels.layers.routing import route
from jaxmodels.mixers.softmax_attention import SoftmaxAttention
from jaxmodels.ops.engine import checks

__all__ = ["MixtureOfHeads"]


class MixtureOfHeads(SoftmaxAttention):
  """Softmax attention whose heads have weights, most of them zero.

  With y_{t,h} the heads of `SoftmaxAttention`, the first S of them shared and
  the other R routed:

    [a, b] = 2 softmax(W_h x_t)
    g_h = a S softmax(W_s x_t)_h                 for a shared head
    p = softmax(W_r x_t)
    g_h = b n p_h / sum_{top n} p                for the n largest p_h
    g_h = 0                                      for the other routed heads
    y_t = W_o concat_heads(g_h y_{t,h})

  Jin et al. 2024, "MoH: Multi-Head Attention as Mixture-of-Head Attention",
  arXiv:2410.11842. The factors 2, S and n are those of the authors' code. With
  them, equal weights are 1, so the outputs keep their size. The layer sows the
  loss "load_balance" into "losses": `balance` R sum_h (mean p_h) (share of
  tokens that choose h). The loss is lowest, `balance` n, if all heads are
  chosen equally often. There is no loss if n = R. The layer computes all heads,
  also those of weight 0, so it saves no time.

  The other fields are those of `SoftmaxAttention`.

  Attributes:
    shared_heads: S, at least 1 and below H.
    active_heads: n, the routed heads that a token chooses.
    balance: The factor of the loss; the paper has 0.01.
  """

  shared_heads: int = 1
  active_heads: int = 2
  balance: float = 0.01

  @nn.nowrap
  def _weighted(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """The heads y [B, L, H, K] times their weights."""
    shared, routed = self._counts()
    stage = nn.softmax(self.dense("stage_router", 2, dtype=self.wide)(x))
    first = 2 * shared * stage[..., :1]
    if shared > 1:  # The softmax of one head is 1.
      logits = self.dense("shared_router", shared, dtype=self.wide)(x)
      first = first * nn.softmax(logits)
    n = self.active_heads
    kept = route(self, x, routed, n, self.balance * n).dense
    second = 2 * n * stage[..., 1:] * kept
    weights = jnp.concatenate([first, second], -1).astype(y.dtype)
    return y * weights[..., None]

  def _counts(self) -> tuple[int, int]:
    """S and R, once the fields are checked."""
    check_fields(self, "shared_heads", "active_heads")
    routed = self.heads - self.shared_heads
    checks.require(
      0 < self.active_heads <= routed,
      f"MixtureOfHeads: active_heads must be at most heads - shared_heads = "
      f"{routed}, got {self.active_heads}",
    )
    return self.shared_heads, routed
