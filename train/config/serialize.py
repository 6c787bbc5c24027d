"""Configs as JSON and back, and the difference between two of them.

A dataclass (a Linen module too) becomes an object with a "$class" entry, a
dtype {"$dtype": name}, a function {"$function": "module:name"}, a tuple a
list; everything else is JSON's own.
"""

from collections.abc import Collection, Mapping
from typing import Any

from train.config import trust
from train.config.moved import current_name
from train.errors import UserError
from train.files import untrusted
from train.flags.kinds import (
  config_fields,
  dtype_from_name,
  dtype_name,
  is_config,
)


def to_json(value: Any) -> Any:
  """Turns a config into what `json.dumps` takes.

  Args:
    value: A dataclass, or what its fields hold.

  Raises:
    UserError: A field holds what cannot be stored.
  """
  name = dtype_name(value)
  if name is not None:
    return {"$dtype": name}
  if is_config(value):
    fields = {k: to_json(v) for k, v in config_fields(value).items()}
    return {"$class": trust.path_of(type(value)), **fields}
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [to_json(v) for v in value]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if callable(value) and hasattr(value, "__name__"):
    return {"$function": trust.path_of(value)}
  kind = type(value).__name__
  raise UserError(f"a config cannot hold {value!r}, of type {kind}")


def from_json(document: Any, trusted: Collection[str] = ()) -> Any:
  """Undoes `to_json`; lists become tuples, and dtypes those of `jax.numpy`.

  Args:
    document: What `json.loads` returned, perhaps of somebody else's run. It
      can name what `train.config.trust` lists, and nothing else runs.
    trusted: Modules and packages whose classes it may name too.

  Raises:
    UserError: A class is gone, takes other fields now, or is not trusted.
  """
  try:
    untrusted.check_depth(document)
  except ValueError as error:
    raise UserError(f"the saved config is not one of ours: {error}") from error
  return _from_json(document, trusted)


def _from_json(document: Any, trusted: Collection[str]) -> Any:
  if isinstance(document, list):
    return tuple(_from_json(v, trusted) for v in document)
  if not isinstance(document, dict):
    return document
  if "$dtype" in document:
    return dtype_from_name(document["$dtype"])
  if "$function" in document:
    return trust.find_function(document["$function"], trusted)
  # Other entries with a dollar are not the config: see `train.setup.prepare`.
  values = {
    k: _from_json(v, trusted)
    for k, v in document.items()
    if not k.startswith("$")
  }
  if "$class" not in document:
    return values
  return trust.build(trust.find_class(document["$class"], trusted), values)


def flatten(document: Any, prefix: str = "config") -> dict[str, Any]:
  """Returns the leaves of a JSON config by dotted path.

  A list is a leaf unless it holds objects, such as modules.
  """
  if isinstance(document, list) and any(isinstance(x, dict) for x in document):
    document = {str(i): entry for i, entry in enumerate(document)}
  if not isinstance(document, dict) or not document:
    return {prefix: document}
  flat: dict[str, Any] = {}
  for key, value in document.items():
    if key == "$class" and isinstance(value, str):
      value = current_name(value)
    flat.update(flatten(value, f"{prefix}.{key}"))
  return flat


def difference(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
  """Returns, by dotted path, the leaves that two JSON configs differ in.

  Args:
    old: One config, of `to_json`.
    new: The other.

  Returns:
    Pairs of values, None where one config lacks the leaf.
  """
  left, right = flatten(old), flatten(new)
  return {
    key: (left.get(key), right.get(key))
    for key in sorted(left.keys() | right.keys())
    if left.get(key) != right.get(key)
  }
