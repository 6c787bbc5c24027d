"""Gated linear attention."""

from typing import NamedTuple

import flax.linen as nn
import jax

from jaxmodels.layers.common import check_fields, check_positive, divide
from jaxmodels.layers.gates import low_rank, sigmoid_decay
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["GLA", "GLAState"]


@serializable
class GLAState(NamedTuple):
  """The state [B, H, K, V]."""

  state: jax.Array


class GLA(Mixer):
  """Linear attention with one decay per key channel.

  Per head, with x_t the input and S_t [K, V] the state:

    q_t, k_t, v_t = W_q x_t / sqrt(K), W_k x_t, W_v x_t
    a_t = sigmoid(W_2 W_1 x_t + b)^(1 / temperature)      [K]
    S_t = diag(a_t) S_{t-1} + k_t v_t^T
    y_t = W_o concat_heads(SiLU(W_r x_t) * RMSNorm(S_t^T q_t))

  Yang et al. 2023, "Gated Linear Attention Transformers with
  Hardware-Efficient Training", arXiv:2312.06635. W_2 W_1 has the rank
  `gate_rank`. Departures: RMSNorm per head in place of LayerNorm, and no bias
  in the output gate, as in the authors' later code; LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / (2 H) as in the paper.
    value_width: V, by default D / H.
    gate_rank: The rank of the decay's projection.
    temperature: The decay is the sigmoid to the power 1 / temperature, so a
      high temperature starts decays near 1.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate_rank: int = 16
  temperature: float = 16.0

  def mix(
    self, x: jax.Array, state: GLAState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, GLAState]:
    """The equation above."""
    heads, key_width, value_width = self._sizes()
    q = self.heads_of("query", x, heads, key_width) * key_width**-0.5
    k = self.heads_of("key", x, heads, key_width)
    v = self.heads_of("value", x, heads, value_width)
    logits = low_rank(self, x, self.gate_rank, heads * key_width, use_bias=True)
    y, last = self.run(
      linear_attention,
      q,
      k,
      v,
      sigmoid_decay(logits, heads, self.temperature),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    gate = nn.silu(self.heads_of("output_gate", x, heads, value_width))
    return self.project_out(self.new_norm()(y) * gate), GLAState(last)

  def _sizes(self) -> tuple[int, int, int]:
    """H, K and V, after a check of all fields."""
    check_fields(self, "heads", "key_width", "value_width", "gate_rank")
    check_positive(self, "temperature")
    checks.require(
      self.key_width is not None or self.width % 2 == 0,
      f"GLA: width must be even where key_width is None, got {self.width}",
    )
    half = self.width // 2
    key_width = self.key_width or divide(self, "heads", half, "D / 2")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return self.heads, key_width, value_width
