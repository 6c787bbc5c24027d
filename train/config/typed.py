"""Annotations of dataclasses: what a value must be, and what a text means."""

import dataclasses
import types
import typing
from typing import Any

from flax import linen as nn

from train.errors import UserError, one_line, shown

_SCALARS = (bool, int, float, str)


def hints(cls: type) -> dict[str, Any]:
  """The annotations of a dataclass, where they can be read."""
  try:
    return typing.get_type_hints(cls)
  except (NameError, TypeError):
    # An annotation of names that exist for type checkers only.
    return {}


def _options(hint: Any) -> tuple[Any, ...]:
  """The types of a union, or the one that it is; None left out."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return tuple(t for t in typing.get_args(hint) if t is not type(None))
  return (hint,)


def allows(hint: Any, kind: type) -> bool:
  """Says whether an annotation names a type, alone or among others."""
  return any(kind in (t, typing.get_origin(t)) for t in _options(hint))


def kind_of(value: Any, hint: Any) -> type:
  """The type of a field's next value: that of this one, or as annotated.

  Args:
    value: Of the field now.
    hint: Its annotation.

  Returns:
    bool, int, float, str or tuple; object if it can be any.
  """
  options = _options(hint)
  declared = options[0] if len(options) == 1 else object
  if value is None:
    return declared if declared in (*_SCALARS, tuple) else object
  # A whole number in a config file may stand for a real one.
  if type(value) is int and declared is float:
    return float
  if isinstance(value, tuple | list):
    return tuple
  return type(value) if isinstance(value, _SCALARS) else object


def hint_of_entry(hint: Any, index: int) -> Any:
  """The annotation of an entry of a tuple; Any if there is none."""
  for option in _options(hint):
    inner = typing.get_args(option)
    if typing.get_origin(option) is not tuple:
      continue
    if inner[1:] == (...,):
      return inner[0]
    if index < len(inner):
      return inner[index]
  return Any


def check(value: Any, key: str) -> None:
  """Compares the fields of a dataclass, inner ones too, with their annotations.

  Args:
    value: A dataclass.
    key: Its dotted path.

  Raises:
    UserError: Names the first field whose value is of another type.
  """
  wanted = hints(type(value))
  for field in dataclasses.fields(value):
    hint = wanted.get(field.name, Any)
    found, name = getattr(value, field.name), f"{key}.{field.name}"
    if not fits(found, hint):
      kind = hint.__name__ if isinstance(hint, type) else str(hint)
      if isinstance(found, int) and abs(found) >= 2**63:
        kind += ", of 64 bits"
      raise UserError(f"{name} is {shown(found)}, but must be of type {kind}")
    # A module checks its own fields; `nn.Module` is a dataclass too.
    if dataclasses.is_dataclass(hint) and not isinstance(found, nn.Module):
      check(found, name)


def fits(value: Any, hint: Any) -> bool:
  """Says whether a value is of the type of an annotation."""
  options = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return any(fits(value, option) for option in options)
  if typing.get_origin(hint) is tuple and options[1:] == (...,):
    return isinstance(value, tuple) and all(fits(x, options[0]) for x in value)
  if hint in (int, float):
    # A whole number may stand for a real one, but a bool for neither.
    if isinstance(value, int) and not isinstance(value, bool):
      return abs(value) < 2**63
    return hint is float and isinstance(value, float)
  is_open = hint is Any or not isinstance(hint, type)
  return is_open or isinstance(value, hint)


def build(cls: type, fields: dict[str, Any], key: str) -> Any:
  """Makes a dataclass; a UserError names the key where it refuses."""
  try:
    return cls(**fields)
  # The class may be the user's own, and check its fields as it likes.
  except Exception as error:
    raise UserError(f"{key}: {one_line(error)}") from error
