"""What `jax.export` asks of states: names under which they are saved."""

import contextlib
from typing import TypeVar

from jax import export

Kind = TypeVar("Kind", bound=type)


def serializable(kind: Kind) -> Kind:
  """A class decorator: exported programs with this NamedTuple can be saved."""
  # Registered already where its module is loaded once more.
  with contextlib.suppress(ValueError):
    export.register_namedtuple_serialization(
      kind, serialized_name=f"jaxmodels.{kind.__name__}"
    )
  return kind
