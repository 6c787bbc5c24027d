"""Several mixers beside one another, on the same input."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxmodels.mixers import contract
from jaxmodels.mixers.gla import GLA
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.softmax_attention import SlidingAttention
from jaxmodels.ops.engine import checks

__all__ = ["Parallel"]


class Parallel(Mixer):
  """The weighted sum of several mixers that read the same input.

    y = sum_i b_i mixer_i(a_i x)

  Falcon-H1 runs Mamba-2 and softmax attention in this way, with factors a_i and
  b_i that are set before training (Zuo et al. 2025, arXiv:2507.22448); Hymba
  has the same idea with norms in between (Dong et al. 2024, arXiv:2411.13676).

  The other fields are those of `Mixer`. `method` and `chunk_size` replace those
  of all mixers inside, unless they have their default values.

  Attributes:
    mixers: Modules that are not bound. The model sets their width, dtypes,
      output_scale, axis_name and `reverse`. By default GLA and attention in a
      window.
    input_factors: a_i, one number per mixer; None for 1.
    output_factors: b_i, one number per mixer; None for 1.
  """

  mixers: tuple[nn.Module, ...] = ()
  input_factors: tuple[float, ...] | None = None
  output_factors: tuple[float, ...] | None = None

  def mix(
    self,
    x: jax.Array,
    state: tuple[Any, ...] | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above."""
    inner = self._inner()
    a = self._factors("input_factors", len(inner))
    b = self._factors("output_factors", len(inner))
    states = (None,) * len(inner) if state is None else state
    total: Any = None
    after, values = [], dict(shared or {})
    for i, mixer in enumerate(inner):
      own = mixer.copy(parent=self, name=f"branch_{i}")
      extras = {"layer": layer, "depth": depth, "shared": values}
      y, last, values = contract.mix_in_stack(
        own, _scaled(x, a[i]), states[i], segment_ids, extras
      )
      y = _scaled(y, b[i])
      total = y if total is None else total + y
      after.append(last)
    result = total, tuple(after)
    return result if shared is None else (*result, values)

  @nn.nowrap
  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> Mapping[str, jax.Array]:
    """The shared values of the mixers inside, if they have any."""
    return contract.initial_shared(list(self._inner()), x, depth, param)

  def init_state(self, batch_size: int) -> tuple[Any, ...]:
    """The zero states of the mixers, in their order."""
    self._check_shared()
    return tuple(contract.zero_state(m, batch_size) for m in self._inner())

  @nn.nowrap
  def _inner(self) -> tuple[nn.Module, ...]:
    """The mixers with the fields of this one, bound to no scope."""
    mixers = self.mixers or (
      GLA(self.width, parent=None),
      SlidingAttention(self.width, parent=None),
    )
    names = ["width", "output_scale", "axis_name", "dtype", "param_dtype"]
    names += ["reverse"] if self.reverse else []
    names += ["method"] if self.method != "auto" else []
    names += ["chunk_size"] if self.chunk_size is not None else []

    def made(mixer: nn.Module) -> nn.Module:
      known = mixer.__dataclass_fields__
      for name in ("reverse", "axis_name"):
        checks.require(
          name in known or not getattr(self, name),
          f"Parallel: {type(mixer).__name__} has no field {name}",
        )
      own = self.given_to(mixer, names)
      return mixer.copy(parent=None, name=None, **own)

    return tuple(made(mixer) for mixer in mixers)

  @nn.nowrap
  def _factors(self, field: str, count: int) -> tuple[float, ...]:
    given = getattr(self, field)
    factors = (1.0,) * count if given is None else tuple(given)
    checks.require(
      len(factors) == count
      and all(isinstance(f, numbers.Real) for f in factors),
      f"Parallel: {field} must be {count} numbers, one per mixer, got "
      f"{given!r}",
    )
    return factors


def _scaled(x: jax.Array, factor: float) -> jax.Array:
  return x if factor == 1 else x * factor
