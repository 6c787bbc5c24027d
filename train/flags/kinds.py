"""Modules, layers and dtypes among values, without an import of JAX.

A command without a model, such as the report, starts without JAX: what is not
imported yet, no value can be an instance of.
"""

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from train.errors import UserError

# Fields that Linen adds to every module, which are no configuration.
LINEN_FIELDS = ("parent", "name")


def is_module(cls: Any) -> bool:
  """Says whether an object is a class of Linen modules."""
  linen = sys.modules.get("flax.linen")
  if linen is None or not isinstance(cls, type):
    return False
  return issubclass(cls, linen.Module)


def layers() -> dict[str, Any]:
  """What the names of mixers and channel mixers stand for."""
  known: dict[str, Any] = {}
  for module, table in (
    ("jaxmodels.layers", "MLPS"),
    ("jaxmodels.mixers", "MIXERS"),
  ):
    known |= getattr(sys.modules.get(module), table, {})
  return known


def config_fields(value: Any) -> dict[str, Any]:
  """Returns the configuration fields of a dataclass, by name."""
  hidden = LINEN_FIELDS if is_module(type(value)) else ()
  return {
    field.name: getattr(value, field.name)
    for field in dataclasses.fields(value)
    if field.init and field.name not in hidden
  }


def is_config(value: Any) -> bool:
  """Says whether a value is an instance of a dataclass."""
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_pair(value: Any) -> bool:
  """Says whether a value is a layer as (name, options)."""
  return (
    isinstance(value, tuple | list)
    and len(value) == 2
    and isinstance(value[0], str)
    and isinstance(value[1], Mapping)
  )


def dtype_name(value: Any) -> str | None:
  """Returns the name of a dtype in any of its spellings, else None."""
  if isinstance(value, np.dtype):
    return value.name
  jnp = sys.modules.get("jax.numpy")
  if jnp is not None and isinstance(value, type(jnp.float32)):
    return np.dtype(value.dtype).name
  if isinstance(value, type) and issubclass(value, np.generic):
    return np.dtype(value).name
  return None


def dtype_from_name(name: str) -> Any:
  """Returns the JAX scalar type of that name.

  Raises:
    UserError: There is none of that name.
  """
  jnp = importlib.import_module("jax.numpy")
  found = getattr(jnp, name, None) if isinstance(name, str) else None
  if found is None or dtype_name(found) is None:
    raise UserError(f"{name!r} is not a dtype, like float32 or bfloat16")
  return found
