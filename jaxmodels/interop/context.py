"""A shorter context for the layers of full attention of a model."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxmodels.models import LanguageModel
from jaxmodels.ops.engine import checks

__all__ = ["with_max_length"]


def with_max_length(model: LanguageModel, max_length: int) -> LanguageModel:
  """The model with caches of at most so many tokens; parameters stay.

  Published configs allow up to a million tokens, and a cache has room for all
  of them. Layers with a window, or with a smaller `max_length`, stay.

  Args:
    model: The model.
    max_length: The most tokens of a sequence, at least 1.

  Raises:
    ValueError: max_length is below 1.
  """
  checks.require(
    max_length >= 1, f"max_length must be at least 1, got {max_length}"
  )
  changed: LanguageModel = _bounded(model, max_length)
  return changed


def _bounded(value: Any, most: int) -> Any:
  """A module, or a field of one, with the bound in all modules inside it."""
  kind: Any = type(value)
  if isinstance(value, nn.Module):
    fields = {
      name: getattr(value, name)
      for name in value.__dataclass_fields__
      if name not in ("parent", "name", "_")
    }
    new = _bounded(fields, most)
    changes = {name: x for name, x in new.items() if x is not fields[name]}
    return value.clone(parent=None, **changes) if changes else value
  if isinstance(value, Mapping):
    new = {key: _bounded(x, most) for key, x in value.items()}
    length = new.get("max_length")
    if length is not None and new.get("window") is None:
      new["max_length"] = min(length, most)
    same = all(new[key] is x for key, x in value.items())
    return value if same else kind(new)
  if kind in (tuple, list):
    items = [_bounded(x, most) for x in value]
    same = all(a is b for a, b in zip(items, value, strict=True))
    return value if same else kind(items)
  return value
