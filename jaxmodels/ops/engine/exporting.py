"""Registers states with `jax.export`, which saves them by name."""

import contextlib
from typing import TypeVar

from jax import export

Kind = TypeVar("Kind", bound=type)


def serializable(kind: Kind) -> Kind:
  """Class decorator: exported programs with this NamedTuple can be saved."""
  # A module that is loaded again has registered its class already.
  with contextlib.suppress(ValueError):
    export.register_namedtuple_serialization(
      kind, serialized_name=f"jaxmodels.{kind.__name__}"
    )
  return kind
