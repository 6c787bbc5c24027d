"""Annotations of dataclasses: what a value must be, and what a flag means."""

import dataclasses
import types
import typing
from typing import Any

import docstring_parser

from train.errors import UserError, one_line, shown
from train.flags import kinds


def hints(cls: Any) -> dict[str, Any]:
  """The annotations of a dataclass, where they can be read."""
  try:
    return typing.get_type_hints(cls, include_extras=True)
  except (NameError, TypeError):
    # An annotation of names that exist for type checkers only.
    return {}


def documentation(cls: Any) -> dict[str, str]:
  """The text on each field (or argument) in the docstrings of a class."""
  found = {}
  for base in reversed(getattr(cls, "__mro__", (cls,))):
    text = docstring_parser.parse(vars(base).get("__doc__") or "")
    for part in text.params:
      found[part.arg_name] = " ".join((part.description or "").split())
  return found


def options(hint: Any) -> tuple[Any, ...]:
  """The types of a union, or the one type that it is, without None."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return tuple(t for t in typing.get_args(hint) if t is not type(None))
  return (hint,)


def allows(hint: Any, kind: type) -> bool:
  """Says whether an annotation names a type, alone or among others."""
  return any(kind in (t, typing.get_origin(t)) for t in options(hint))


def allows_module(hint: Any) -> bool:
  """Says whether an annotation names a module, alone or among others."""
  return any(kinds.is_module(option) for option in options(hint))


def of_entry(hint: Any) -> Any:
  """The annotation of the entries of a tuple; Any if there is none."""
  for option in options(hint):
    inner = typing.get_args(option)
    if typing.get_origin(option) is tuple and inner[1:] == (...,):
      return inner[0]
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
    if dataclasses.is_dataclass(hint) and not kinds.is_module(type(found)):
      check(found, name)


def fits(value: Any, hint: Any) -> bool:
  """Says whether a value is of the type of an annotation."""
  inner = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return any(fits(value, option) for option in inner)
  if typing.get_origin(hint) is tuple and inner[1:] == (...,):
    return isinstance(value, tuple) and all(fits(x, inner[0]) for x in value)
  if hint in (int, float):
    # An integer is also a float, but a bool is neither.
    if isinstance(value, int) and not isinstance(value, bool):
      return abs(value) < 2**63
    return hint is float and isinstance(value, float)
  is_open = hint is Any or not isinstance(hint, type)
  return is_open or isinstance(value, hint)


def build(cls: type, fields: dict[str, Any], key: str) -> Any:
  """Makes a dataclass; a UserError names the key if the class refuses."""
  try:
    return cls(**fields)
  # The class may be the user's own, and check its fields as it likes.
  except Exception as error:
    raise UserError(f"{key}: {one_line(error)}") from error
