"""Layers by name, with errors that help."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn

from jaxmodels.layers import MLPS
from jaxmodels.mixers import MIXERS

__all__ = ["UnknownNameError", "make_mixer", "make_mlp", "pick"]


class UnknownNameError(ValueError):
  """No layer of this name is registered."""


def make_mixer(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module:
  """The mixer of that name.

  Args:
    name: A key of `jaxmodels.mixers.MIXERS`.
    options: Fields that differ from the mixer's defaults.
    **common: Fields that the model sets.

  Raises:
    ValueError: For an unknown name or field, with near matches, or a module
      without the fields that the model sets.
  """
  make = pick("mixer", name, MIXERS)
  fields = _fields(make)
  if "axis_name" in common and not (fields is None or "axis_name" in fields):
    raise ValueError(
      f"mixer {name!r} cannot have its sequences cut over a mesh axis: it has"
      " no field axis_name"
    )
  _check_fields(f"mixer {name!r}", make, options, common)
  return _made(make, **common, **options)


def make_mlp(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module | None:
  """The channel mixer of that name, as `make_mixer`; None for "none"."""
  make = pick("mlp", name, MLPS)
  if make is None:
    if options:
      raise ValueError(f"mlp {name!r} has no options, got {', '.join(options)}")
    return None
  _check_fields(f"mlp {name!r}", make, options, common)
  return _made(make, **common, **options)


def pick(kind: str, name: str, table: Mapping[str, Any]) -> Any:
  """table[name], or an UnknownNameError with near matches."""
  if name not in table:
    raise UnknownNameError(f"unknown {kind} {name!r}{_near(name, table)}")
  return table[name]


def _check_fields(
  what: str,
  make: Callable[..., nn.Module],
  options: Mapping[str, Any],
  common: Mapping[str, Any],
) -> None:
  """Checks that `make` takes what the model sets, and the options."""
  fields = _fields(make)
  if fields is None:
    return
  for field in common:
    if field not in fields:
      module = make.func if isinstance(make, functools.partial) else make
      module_name = getattr(module, "__name__", repr(module))
      raise ValueError(
        f"{what}: {module_name} has no field {field}, which the model "
        f"sets; it needs {', '.join(common)}"
      )
  fields -= {"parent", "name", "axis_name", *common}
  for option in options:
    if option in common or option == "axis_name":
      raise ValueError(
        f"options of {what}: {option!r} is set by the model itself"
      )
    if option not in fields:
      raise ValueError(
        f"options of {what}: unknown field {option!r}{_near(option, fields)}"
      )


def _fields(make: Callable[..., nn.Module]) -> set[str] | None:
  """The fields of a module or parameters of a function; None: takes any."""
  if not callable(make):
    raise ValueError(f"{make!r} is registered as a layer, but makes none")
  parameters = inspect.signature(make).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return None
  return set(parameters)


def _made(make: Callable[..., nn.Module], **fields: Any) -> nn.Module:
  made = make(**fields)
  if not isinstance(made, nn.Module):
    raise ValueError(f"{make!r} is registered as a layer, but makes {made!r}")
  return made


def _near(name: str, known: Iterable[str]) -> str:
  known = sorted(known)
  near = difflib.get_close_matches(name, known, 3, 0.5)
  if near:
    return f"; did you mean {' or '.join(map(repr, near))}?"
  return f"; known are {', '.join(known)}"
