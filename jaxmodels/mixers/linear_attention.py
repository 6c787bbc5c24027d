"""Linear attention with a feature map, and Based."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_positive, divide
from jaxmodels.layers.feature_maps import Hedgehog, RandomFeatures
from jaxmodels.layers.rotary import rotate
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.division import divide as safely
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.feature_maps import DIRECTIONS, FEATURE_MAPS, cosformer

__all__ = ["Based", "LinearAttention", "LinearAttentionState"]

_RANDOM = {f"{kind}_random": kind for kind in DIRECTIONS}
# The maps whose kernel approximates exp(q^T k), as softmax attention has it.
_EXPONENTIAL = ("taylor", *_RANDOM)
_MAPS = (*FEATURE_MAPS, "hedgehog", "cosformer", *_RANDOM)


@serializable
class LinearAttentionState(NamedTuple):
  """The sums S [B, H, F, V] and z [B, H, F], and the earlier tokens, [B].

  z is None without the normaliser. The number of earlier tokens of the segment
  is None unless the features depend on the position.
  """

  state: jax.Array
  normalizer: jax.Array | None
  position: jax.Array | None


class LinearAttention(Mixer):
  """Attention with the kernel phi(q)^T phi(k) in place of exp(q^T k).

  Per head, with x_t the input, S_t [F, V] the state and z_t [F] the normaliser:

    q_t, k_t, v_t = W_q x_t, W_k x_t, W_v x_t
    S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t)
    y_t = W_o concat_heads(S_t^T phi(q_t) / max(|z_t^T phi(q_t)|, floor))

  Katharopoulos et al. 2020, "Transformers are RNNs: Fast Autoregressive
  Transformers with Linear Attention", arXiv:2006.16236, where phi is
  `elu_plus_one`. The maps `taylor` and `*_random` approximate exp(q^T k) of
  softmax attention, so q and k are divided by K^(1/4) before the map.
  Departures: no biases; LeCun initialisation. q and k may be rotated before the
  map, as in softmax attention.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / H.
    value_width: V, by default D / H.
    feature_map: A name of `jaxmodels.ops.feature_maps.FEATURE_MAPS`
      ("identity", "elu_plus_one", "relu", "softmax", "taylor", "dpfp"), or
      "cosformer", "hedgehog", "independent_random", "orthogonal_random" or
      "simplex_random"; or a function from [B, L, H, K] to [B, L, H, F] with
      values of at least 0.
    features: The width of the map "hedgehog" (F is twice that; K by default),
      or F of the random maps (4 K by default).
    horizon: For "cosformer", the distance in tokens at which its kernel is 0:
      the longest sequence.
    rotary_fraction: The fraction of the channels that is rotated before the
      map.
    rotary_base: The base of the wavelengths, see `jaxmodels.layers.rotate`.
    normalize: Whether to divide by the normaliser.
    floor: The smallest divisor.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  feature_map: str | Callable[[jax.Array], jax.Array] = "elu_plus_one"
  features: int | None = None
  horizon: int = 2048
  rotary_fraction: float = 0.0
  rotary_base: float = 10_000.0
  normalize: bool = True
  floor: float = 1e-6

  def mix(
    self,
    x: jax.Array,
    state: LinearAttentionState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, LinearAttentionState]:
    """The equation above."""
    heads, key_width, value_width = self._sizes()
    positions, after = None, None
    if self.feature_map == "cosformer" or self.rotary_fraction:
      positions, after = self.positions(
        x, None if state is None else state.position, segment_ids
      )
    q = self.heads_of("query", x, heads, key_width)
    k = self.heads_of("key", x, heads, key_width)
    if self.rotary_fraction and positions is not None:
      q, k = (
        rotate(u, positions, self.rotary_base, fraction=self.rotary_fraction)
        for u in (q, k)
      )
    if self.feature_map in _EXPONENTIAL:
      q, k = q * key_width**-0.25, k * key_width**-0.25
    q, k = self._mapped(q, k, positions)
    v = self.heads_of("value", x, heads, value_width)
    y, S, z = self._attend(q, k, v, state, segment_ids)
    return self.project_out(y), LinearAttentionState(S, z, after)

  def _attend(
    self,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    state: LinearAttentionState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns y [B, L, H, V], S, and z, which is None without a normaliser."""
    S, z = (None, None) if state is None else state[:2]
    if not self.normalize:
      y, S = self.run(
        linear_attention, q, k, v, state=S, segment_ids=segment_ids
      )
      return y, S, None
    # z is the sum for values of 1: one more column of v and of S. (The op
    # `normalized_linear_attention` has gates, and so more to compute.)
    v = v.astype(self.wide)
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
    if S is not None and z is not None:
      S = jnp.concatenate([S, z[..., None]], -1)
    y, S = self.run(linear_attention, q, k, v, state=S, segment_ids=segment_ids)
    total = jnp.maximum(jnp.abs(y[..., -1:]), self.floor)
    y = safely(y[..., :-1], total).astype(self.dtype)
    return y, S[..., :-1], S[..., -1]

  def _mapped(
    self, q: jax.Array, k: jax.Array, positions: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """phi(q) and phi(k)."""
    kind = self.feature_map
    if kind == "hedgehog":
      maps = (
        Hedgehog(self.features, self.dtype, self.param_dtype, name=name)
        for name in ("query_map", "key_map")
      )
      return next(maps)(q), next(maps)(k)
    if kind == "cosformer" and positions is not None:
      q = cosformer(q, positions, self.horizon)
      return q, cosformer(k, positions, self.horizon)
    phi: Any = FEATURE_MAPS.get(kind, kind) if isinstance(kind, str) else kind
    if kind in _RANDOM:
      phi = RandomFeatures(self.features, _RANDOM[kind], name="random_map")
    return phi(q), phi(k)

  def _sizes(self) -> tuple[int, int, int]:
    """H, K and V, after a check of all fields."""
    sizes = ("heads", "key_width", "value_width", "features", "horizon")
    check_fields(self, *sizes)
    check_positive(self, "floor", "rotary_base")
    checks.require(
      callable(self.feature_map) or self.feature_map in _MAPS,
      f"{type(self).__name__}: feature_map must be one of {', '.join(_MAPS)}, "
      f"or a function, got {self.feature_map!r}",
    )
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return self.heads, key_width, value_width


class Based(LinearAttention):
  """Linear attention with the Taylor series of softmax attention's kernel.

  The equation is that of `LinearAttention` with the map of second order

    phi(x) = [1, x, x (x) x / sqrt(2)] of x / K^(1/4),  K = 16,

  so phi(q)^T phi(k) = 1 + u + u^2 / 2 with u = q^T k / sqrt(K). Arora et al.
  2024, "Simple linear attention language models balance the recall-throughput
  tradeoff", arXiv:2402.18668. The paper's model is a stack: these layers, a few
  of `sliding_attention` with a window of 64, and short gated convolutions.

  The fields are those of `LinearAttention`.
  """

  heads: int = 16
  key_width: int | None = 16
  feature_map: str | Callable[[jax.Array], jax.Array] = "taylor"
