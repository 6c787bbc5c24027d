"""RetNet's multi-scale retention."""

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
from jaxmodels.layers.gates import fixed_decay
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.layers.rotary import rotate
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["RetNet", "RetNetState"]


@serializable
class RetNetState(NamedTuple):
  """The state [B, H, K, V], and the number of earlier tokens, [B]."""

  state: jax.Array
  position: jax.Array


class RetNet(Mixer):
  """Linear attention with a fixed decay per head and rotary positions.

  Per head h = 0, 1, ..., with x_t the input and S_t [K, V] the state:

    q_t, k_t = rotate(W_q x_t, t) / sqrt(K), rotate(W_k x_t, t)
    S_t = (1 - 2^(-5 - h)) S_{t-1} + k_t v_t^T,  v_t = W_v x_t
    y_t = W_o (SiLU(W_g x_t) * GroupNorm_H(concat_heads(S_t^T q_t)))

  Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large
  Language Models", arXiv:2307.08621. The rotation is xPos (Sun et al. 2022,
  arXiv:2212.10554) without its scale, which the decay replaces. In reverse,
  positions count from the end of each segment. Departures: the wavelengths and
  pairs of channels are those of `rotate`. The paper's normalisation of scores
  is left out, because the group norm cancels it, except for its epsilon. LeCun
  initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / H; even.
    value_width: V, by default 2 D / H as in the paper.
    rotary_base: The base of the wavelengths, see `rotate`.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  rotary_base: float = 10_000.0

  def mix(
    self, x: jax.Array, state: RetNetState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, RetNetState]:
    """The equation above."""
    heads, key_width, value_width = self._sizes()
    positions, position = self.positions(
      x, None if state is None else state.position, segment_ids
    )
    q = self.heads_of("query", x, heads, key_width) * key_width**-0.5
    k = self.heads_of("key", x, heads, key_width)
    decay = jnp.asarray(fixed_decay(heads), self.wide)[None, None]
    y, last = self.run(
      linear_attention,
      rotate(q, positions, self.rotary_base),
      rotate(k, positions, self.rotary_base),
      self.heads_of("value", x, heads, value_width),
      jnp.broadcast_to(decay, (*x.shape[:2], heads)),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(kind=LayerNorm, groups=heads)(merge_heads(y))
    gate = nn.silu(self.dense("output_gate", heads * value_width)(x))
    return self.project_out(gate * y), RetNetState(last, position)

  def _sizes(self) -> tuple[int, int, int]:
    """H, K and V, after a check of all fields."""
    check_fields(self, "heads", "key_width", "value_width")
    check_positive(self, "rotary_base")
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    checks.require(
      key_width % 2 == 0,
      f"RetNet: key_width, D / heads by default, must be even, got {key_width}",
    )
    twice = 2 * self.width
    value_width = self.value_width or divide(self, "heads", twice, "2 D")
    return self.heads, key_width, value_width
