"""Dataclasses of a config as a typed `ConfigDict`, and back."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict, config_dict

from train.config import serialize
from train.errors import UserError, one_line, shown

_SCALARS = (bool, int, float, str)


def keys(entries: ConfigDict, prefix: str = "") -> dict[str, type]:
  """Returns the type of every key, inner ones too."""
  found: dict[str, type] = {}
  for key in entries:
    found[prefix + key] = entries.get_type(key)
    if isinstance(entries[key], ConfigDict):
      found.update(keys(entries[key], f"{prefix}{key}."))
  return found


def config_dict_of(value: Any) -> ConfigDict:
  """Turns a dataclass, and those inside it, into a ConfigDict."""
  fields = serialize.config_fields(value)
  wanted = hints(type(value))
  try:
    entries = {k: _entry(v, wanted.get(k, Any)) for k, v in fields.items()}
    return ConfigDict({k: v for k, v in entries.items() if v is not _HIDDEN})
  except UserError:
    raise
  # ConfigDict refuses names that it has itself, for one.
  except Exception as error:
    name = type(value).__name__
    raise UserError(
      f"a field of {name} cannot be set by flags: {one_line(error)}"
    ) from error


# Marks what no flag can reach: functions, modules in tuples, arrays.
_HIDDEN = object()


def _entry(value: Any, hint: Any) -> Any:
  if serialize.is_config(value):
    return config_dict_of(value)
  name = serialize.dtype_name(value)
  if name is not None:
    return name
  if isinstance(value, Mapping):
    return ConfigDict(_plain(value))
  if value is None:
    return config_dict.placeholder(_optional(hint))
  if isinstance(value, list | tuple):
    plain = all(isinstance(v, _SCALARS) for v in value)
    return tuple(value) if plain else _HIDDEN
  if not isinstance(value, _SCALARS):
    return _HIDDEN
  # A whole number in a config file may stand for a real one.
  if isinstance(value, int) and _optional(hint) is float:
    return float(value)
  return value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
  """Copies a mapping of options, which Linen may have frozen."""
  if not all(isinstance(key, str) for key in value):
    raise ValueError(f"options are named by strings, not as in {shown(value)}")
  return {
    key: _plain(v) if isinstance(v, Mapping) else _plain_leaf(v)
    for key, v in value.items()
  }


def _plain_leaf(value: Any) -> Any:
  return serialize.dtype_name(value) or value


def hints(cls: type) -> dict[str, Any]:
  """The annotations of a dataclass, where they can be read."""
  try:
    return typing.get_type_hints(cls)
  except (NameError, TypeError):
    # An annotation of names that exist for type checkers only.
    return {}


def _optional(hint: Any) -> type:
  """Returns the one type in `T`, `T | None` or `Optional[T]`, else object."""
  options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
  if len(options) == 1 and options[0] in (*_SCALARS, tuple):
    return options[0]
  return object


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
    if not _fits(found, hint):
      kind = hint.__name__ if isinstance(hint, type) else str(hint)
      if isinstance(found, int) and abs(found) >= 2**63:
        kind += ", of 64 bits"
      raise UserError(f"{name} is {shown(found)}, but must be of type {kind}")
    # A module checks its own fields; `nn.Module` is a dataclass too.
    if dataclasses.is_dataclass(hint) and not isinstance(found, nn.Module):
      check(found, name)


def _fits(value: Any, hint: Any) -> bool:
  """Says whether a value is of the type of an annotation."""
  options = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return any(_fits(value, option) for option in options)
  if typing.get_origin(hint) is tuple and options[1:] == (...,):
    return isinstance(value, tuple) and all(_fits(x, options[0]) for x in value)
  if hint in (int, float):
    # A whole number may stand for a real one, but a bool for neither.
    if isinstance(value, int) and not isinstance(value, bool):
      return abs(value) < 2**63
    return hint is float and isinstance(value, float)
  is_open = hint is Any or not isinstance(hint, type)
  return is_open or isinstance(value, hint)


def rebuild(old: Any, new: Any, key: str) -> Any:
  """Builds a value like `old` from an entry of a ConfigDict."""
  if serialize.is_config(old):
    fields = serialize.config_fields(old)
    changed = {
      name: rebuild(value, new[name], f"{key}.{name}")
      for name, value in fields.items()
      if name in new
    }
    return _build(type(old), {**fields, **changed}, key)
  if isinstance(new, ConfigDict):
    return _mapping(old, new.to_dict())
  if serialize.dtype_name(old) is not None and isinstance(new, str):
    return _named(lambda: serialize.dtype_from_name(new), key)
  if old is None and isinstance(new, str) and key.endswith("dtype"):
    return _named(lambda: serialize.dtype_from_name(new), key)
  if isinstance(new, tuple) and isinstance(old, tuple):
    return _tuple(old, new, key)
  return new


def _mapping(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
  """Gives the dtypes inside a mapping of options back their own form."""
  old = old if isinstance(old, Mapping) else {}
  result: dict[str, Any] = {}
  for key, value in new.items():
    before = old.get(key)
    if isinstance(value, Mapping):
      result[key] = _mapping(before, value)
    elif serialize.dtype_name(before) is not None:
      result[key] = serialize.dtype_from_name(value)
    else:
      result[key] = value
  return result


def _tuple(old: tuple, new: tuple, key: str) -> tuple:
  if old and isinstance(old[0], str) and len(new) == 1 and "," in str(new[0]):
    new = tuple(part.strip() for part in str(new[0]).split(","))
  if old and any(not isinstance(v, type(old[0])) for v in new):
    kind = type(old[0]).__name__
    raise UserError(f"{key} is {new!r}, but must be a tuple of {kind}")
  return new


def _named(build: Callable[[], Any], key: str) -> Any:
  try:
    return build()
  except UserError as error:
    raise UserError(f"{key}: {error}") from error


def _build(cls: type, fields: dict[str, Any], key: str) -> Any:
  try:
    return cls(**fields)
  # The class may be the user's own, and check its fields as it likes.
  except Exception as error:
    raise UserError(f"{key}: {one_line(error)}") from error
