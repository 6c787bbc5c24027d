"""Layers by name, with errors that help."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

from jaxmodels.layers import MIXERS, MLPS

__all__ = ["UnknownNameError", "make_mixer", "make_mlp", "pick"]


class UnknownNameError(ValueError):
  """No layer of this name is registered."""


def make_mixer(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module:
  """The mixer of that name.

  Args:
    name: A key of `jaxmodels.layers.MIXERS`.
    options: Fields that differ from the mixer's defaults.
    **common: Fields that the model sets.

  Raises:
    ValueError: For an unknown name or field, with near matches.
  """
  make = pick("mixer", name, MIXERS)
  _check_options(f"options of mixer {name!r}", make, options, common)
  if "axis_name" in common and "axis_name" not in _fields(make):
    raise ValueError(
      f"mixer {name!r} cannot have its sequences cut over a mesh axis: it has"
      " no field axis_name"
    )
  return make(**common, **options)


def make_mlp(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module | None:
  """The channel mixer of that name, as `make_mixer`; None for "none"."""
  make = pick("mlp", name, MLPS)
  if make is None:
    return None
  _check_options(f"options of mlp {name!r}", make, options, common)
  return make(**common, **options)


def pick(kind: str, name: str, table: Mapping[str, Any]) -> Any:
  """table[name], or an UnknownNameError with near matches."""
  if name not in table:
    raise UnknownNameError(f"unknown {kind} {name!r}{_near(name, table)}")
  return table[name]


def _check_options(
  what: str,
  make: Callable[..., nn.Module],
  options: Mapping[str, Any],
  common: Mapping[str, Any],
) -> None:
  fields = _fields(make) - {"parent", "name", "axis_name", *common}
  for option in options:
    if option in common or option == "axis_name":
      raise ValueError(f"{what}: {option!r} is set by the model itself")
    if option not in fields:
      raise ValueError(
        f"{what}: unknown field {option!r}{_near(option, fields)}"
      )


def _fields(make: Callable[..., nn.Module]) -> set[str]:
  """The names of a module's fields."""
  module = make.func if isinstance(make, functools.partial) else make
  if not dataclasses.is_dataclass(module):
    raise ValueError(
      f"{make!r} is registered as a layer, but is neither a Linen module nor a"
      " functools.partial of one"
    )
  return {field.name for field in dataclasses.fields(module)}


def _near(name: str, known: Iterable[str]) -> str:
  known = sorted(known)
  near = difflib.get_close_matches(name, known, 3, 0.5)
  if near:
    return f"; did you mean {' or '.join(map(repr, near))}?"
  return f"; known are {', '.join(known)}"
