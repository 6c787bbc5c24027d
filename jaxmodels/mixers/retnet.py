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
from jaxmodels.layers.mlp import activation_of
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.layers.rotary import rotate
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.chunks import repeat_heads
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

  Options of the layer of flash-linear-attention, whose norm is "rms": G key and
  value heads, each of which serves H / G query heads; a function phi of q and
  k, before the rotation; no output gate; and a norm without a learned scale.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / H; even.
    value_width: V, by default 2 D / H as in the paper.
    rotary_base: The base of the wavelengths, see `rotate`.
    kv_heads: G, a divisor of H; H by default.
    feature_map: phi, a name of `jaxmodels.layers.mlp.ACTIVATIONS`, or None for
      the identity.
    output_gate: Whether y is gated before the output projection.
    norm: "group", the GroupNorm of the paper with a scale and a bias per
      channel of every head, or "rms", an RMSNorm per head with one scale [V]
      for all heads.
    norm_scale: Whether the norm "rms" has a learned scale.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  rotary_base: float = 10_000.0
  kv_heads: int | None = None
  feature_map: str | None = None
  output_gate: bool = True
  norm: str = "group"
  norm_scale: bool = True

  def mix(
    self, x: jax.Array, state: RetNetState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, RetNetState]:
    """The equation above."""
    heads, kv_heads, key_width, value_width = self._sizes()
    positions, position = self.positions(
      x, None if state is None else state.position, segment_ids
    )
    q = self.heads_of("query", x, heads, key_width)
    k = self.heads_of("key", x, kv_heads, key_width)
    if self.feature_map is not None:
      phi = activation_of(self, "feature_map")
      q, k = phi(q), phi(k)
    k = rotate(k, positions, self.rotary_base)
    v = self.heads_of("value", x, kv_heads, value_width)
    k, v = repeat_heads((k, v), heads, 2)
    decay = jnp.asarray(fixed_decay(heads), self.wide)[None, None]
    y, last = self.run(
      linear_attention,
      rotate(q * key_width**-0.5, positions, self.rotary_base),
      k,
      v,
      jnp.broadcast_to(decay, (*x.shape[:2], heads)),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self._normalised(y)
    if self.output_gate:
      y = nn.silu(self.dense("output_gate", heads * value_width)(x)) * y
    return self.project_out(y), RetNetState(last, position)

  @nn.nowrap
  def _normalised(self, y: jax.Array) -> jax.Array:
    """The norm of heads [B, L, H, V], merged to [B, L, H V]."""
    if self.norm == "rms":
      return merge_heads(self.new_norm(use_scale=self.norm_scale)(y))
    return self.new_norm(kind=LayerNorm, groups=self.heads)(merge_heads(y))

  def _sizes(self) -> tuple[int, int, int, int]:
    """H, G, K and V, after a check of all fields."""
    check_fields(self, "heads", "key_width", "value_width", "kv_heads")
    check_positive(self, "rotary_base")
    checks.require(
      self.norm in ("group", "rms"),
      f"RetNet: norm must be group or rms, got {self.norm!r}",
    )
    checks.require(
      self.norm_scale or self.norm == "rms",
      'RetNet: norm_scale=False is for norm "rms" only',
    )
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    checks.require(
      key_width % 2 == 0,
      f"RetNet: key_width, D / heads by default, must be even, got {key_width}",
    )
    if self.kv_heads is not None:
      divide(self, "kv_heads", self.heads, "heads")
    kv_heads, twice = self.kv_heads or self.heads, 2 * self.width
    value_width = self.value_width or divide(self, "heads", twice, "2 D")
    return self.heads, kv_heads, key_width, value_width
