"""Both directions: LION, and any causal mixer from both ends."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_positive, divide
from jaxmodels.mixers import contract
from jaxmodels.mixers.gla import GLA
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import bidirectional
from jaxmodels.ops.engine import checks
from jaxmodels.ops.feature_maps import FEATURE_MAPS

__all__ = ["LION", "Bidirectional"]

_DECAYS = ("none", "fixed", "selective")


class LION(Mixer):
  """Linear attention over both directions with decays; not causal.

  Per head, over all tokens s of the segment:

    q_t, k_t, v_t = phi(W_q x_t), phi(W_k x_t), W_v x_t
    y_t = W_o concat_heads(sum_s M_ts (q_t . k_s) v_s / sum_s M_ts (q_t . k_s))

  M_ts is the product of the decays of token s and of the tokens between s and
  t, and 1 for s = t: the decay of token t itself does not act. The decays are 1
  (LION-LIT), sigmoid(a) (LION-D), or sigmoid(W_a x_t + a) per head (LION-S).
  Afzal et al. 2025, "Linear Attention for Efficient Bidirectional Sequence
  Modeling", arXiv:2502.16249. The layer runs as a masked product of L x L, or
  as one recurrence from each end. Departures: phi is a map of `FEATURE_MAPS`,
  where the paper normalises a shifted SiLU; LeCun initialisation.

  The other fields are those of `Mixer`; `reverse` has no effect. There is no
  state. `method` may be "quadratic", the masked product.

  Attributes:
    heads: H.
    feature_map: phi, a name of `jaxmodels.ops.feature_maps.FEATURE_MAPS` with
      values of at least 0.
    decay: "none", "fixed" or "selective".
    floor: The smallest divisor.
  """

  heads: int = 4
  feature_map: str = "elu_plus_one"
  decay: str = "selective"
  floor: float = 1e-6

  def mix(
    self, x: jax.Array, state: None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, tuple[()]]:
    """The equation above."""
    del state
    check_fields(self, "heads")
    check_positive(self, "floor")
    width = divide(self, "heads", self.width, "D")
    for field, known in (("decay", _DECAYS), ("feature_map", FEATURE_MAPS)):
      checks.require(
        getattr(self, field) in known,
        f"LION: {field} must be one of {', '.join(known)}, got "
        f"{getattr(self, field)!r}",
      )
    phi = FEATURE_MAPS[self.feature_map]
    y = bidirectional(
      phi(self.heads_of("query", x, self.heads, width)),
      phi(self.heads_of("key", x, self.heads, width)),
      self.heads_of("value", x, self.heads, width),
      self._log_decay(x),
      normalize=True,
      floor=self.floor,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    return self.project_out(y), ()

  @nn.nowrap
  def _log_decay(self, x: jax.Array) -> jax.Array | None:
    """The logarithm of the decays, [B, L, H], or None."""
    if self.decay == "none":
      return None
    # Initially between 0.88 and 0.998.
    bias = self.wide_param("decay_bias", _spread, (self.heads,))[None, None]
    if self.decay == "fixed":
      bias = jnp.broadcast_to(bias, (*x.shape[:2], self.heads))
      return nn.log_sigmoid(bias)
    logits = self.dense("decay_logits", self.heads, dtype=self.wide)(x)
    return nn.log_sigmoid(logits + bias)


def _spread(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """Numbers from 2 to 6, one per head."""
  del key
  return jnp.linspace(2, 6, shape[0], dtype=dtype)


class Bidirectional(Mixer):
  """The sum of a causal mixer and of the same mixer in reverse; not causal.

    y = ahead(x) + back(x),  where back runs from the last token to the first

  The two have parameters of their own, as in Vision Mamba (Zhu et al. 2024,
  arXiv:2401.09417), or are tied. Each token reads itself in both directions. In
  `LION` each token reads itself once. Sharded sequences work as in the mixer
  itself.

  The other fields are those of `Mixer`; `reverse` has no effect. `method` and
  `chunk_size` are those of the mixer inside. There is no state.

  Attributes:
    mixer: A module that is not bound, with a field `reverse`; None for GLA. The
      model sets its width, dtypes, output_scale and axis_name.
    tied: Whether both directions have the same parameters.
  """

  mixer: nn.Module | None = None
  tied: bool = False

  # The names of the two, and what differs in the fields of the second.
  _names: ClassVar[tuple[str, str]] = ("ahead", "back")
  _of_second: ClassVar[Mapping[str, Any]] = {"reverse": True}

  def mix(
    self,
    x: jax.Array,
    state: None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above."""
    del state
    inner = self._inner()
    one, other = self._names
    first = inner.copy(parent=self, name="both" if self.tied else one)
    extras = {"layer": layer, "depth": depth}
    if shared is not None:
      extras["shared"] = shared
    y, _, values = contract.mix_in_stack(first, x, None, segment_ids, extras)
    if self.tied:
      # The same scope, so the same parameters.
      place: Any = first.scope
      second = inner.copy(parent=place.rewound(), **self._of_second)
    else:
      second = inner.copy(parent=self, name=other, **self._of_second)
    turned = self._turned(x)
    z, _, _ = contract.mix_in_stack(second, turned, None, segment_ids, extras)
    y = y + self._turned(z)
    return (y, ()) if shared is None else (y, (), values)

  @nn.nowrap
  def _turned(self, x: jax.Array) -> jax.Array:
    """What the second one reads in place of x; for its output, the inverse."""
    return x

  @nn.nowrap
  def init_state(self, batch_size: int) -> tuple[()]:
    """(), the state of a mixer that reads all tokens."""
    del batch_size
    return ()

  @nn.nowrap
  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> Mapping[str, jax.Array]:
    """The shared values of the mixer inside, if it has any."""
    inner: Any = self._inner()
    if not hasattr(inner, "init_shared"):
      return {}
    return inner.init_shared(x, depth, param)

  @nn.nowrap
  def _inner(self) -> nn.Module:
    """The mixer inside with the fields of this one, bound to no scope."""
    inner = GLA(self.width) if self.mixer is None else self.mixer
    checks.require(
      "reverse" in inner.__dataclass_fields__,
      f"Bidirectional: mixer must have a field reverse, got "
      f"{type(inner).__name__}",
    )
    names = (
      "width", "output_scale", "axis_name", "dtype", "param_dtype", "method",
      "chunk_size",
    )  # fmt: skip
    own = self.given_to(inner, names)
    return inner.copy(parent=None, name=None, reverse=False, **own)
