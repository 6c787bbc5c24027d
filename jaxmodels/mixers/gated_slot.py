"""Gated slot attention: a softmax over a fixed number of slots."""

import functools
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
from jaxmodels.layers.gates import sigmoid_decay
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["GatedSlotAttention", "GatedSlotState"]


@serializable
class GatedSlotState(NamedTuple):
  """The keys [B, H, M, K] and the values [B, H, M, V] of M slots."""

  keys: jax.Array
  values: jax.Array


class GatedSlotAttention(Mixer):
  """Attention to M slots, each a gated average of past keys and values.

  Per head, with x_t the input, K_t [M, K] and V_t [M, V] the slots:

    q_t, k_t, v_t = SiLU(W_q x_t), SiLU(W_k x_t), SiLU(W_v x_t)
    a_t = sigmoid(W_a x_t)^(1 / temperature)                 [M]
    K_t = diag(a_t) K_{t-1} + (1 - a_t) k_t^T
    V_t = diag(a_t) V_{t-1} + (1 - a_t) v_t^T
    y_t = W_o RMSNorm(SiLU(concat_heads(V_t^T softmax(K_t q_t))))

  Zhang et al. 2024, "Gated Slot Attention for Efficient Linear-Time Sequence
  Modeling", arXiv:2409.07146. Both recurrences are linear: the first reads one
  score per slot, and the second reads the values with the softmax of these
  scores. As in the authors' code, queries have no scale, and the norm is over
  all heads. Departure: LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    slots: M, by default K = D / H.
    temperature: The decay is the sigmoid to the power 1 / temperature, so a
      high temperature starts decays near 1.
  """

  heads: int = 4
  slots: int | None = None
  temperature: float = 8.0

  def mix(
    self,
    x: jax.Array,
    state: GatedSlotState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, GatedSlotState]:
    """The equation above."""
    check_fields(self, "heads", "slots")
    check_positive(self, "temperature")
    width = divide(self, "heads", self.width, "D")
    q, k, v = (
      nn.silu(self.heads_of(name, x, self.heads, width))
      for name in ("query", "key", "value")
    )
    slots = self.slots or width
    logits = self.dense("forget", self.heads * slots, dtype=self.wide)(x)
    decay = sigmoid_decay(logits, self.heads, self.temperature)
    keys, values = (None, None) if state is None else state
    scores, keys = self._scores(q, k, decay, keys, segment_ids)
    y, values = self.run(
      linear_attention,
      nn.softmax(scores),
      -jnp.expm1(decay),
      v,
      decay,
      state=values,
      segment_ids=segment_ids,
    )
    y = self.project_out(self.new_norm()(nn.silu(merge_heads(y))))
    return y, GatedSlotState(keys, values)

  def _scores(
    self,
    q: jax.Array,
    k: jax.Array,
    decay: jax.Array,
    state: jax.Array | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """K_t q_t [B, L, H, M], and the keys of the slots.

    The slots are the values of this recurrence, each with its decay.
    """
    scores, last = self.run(
      functools.partial(linear_attention, value_log_decay=decay),
      q,
      k,
      -jnp.expm1(decay),
      state=None if state is None else state.mT,
      segment_ids=segment_ids,
    )
    return scores, last.mT
