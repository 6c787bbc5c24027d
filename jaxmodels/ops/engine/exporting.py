"""What `jax.export` asks of the ops: symbolic sizes, states with names."""

import contextlib
from typing import Any, TypeVar

from jax import export

from jaxmodels.ops.engine.checks import require

Kind = TypeVar("Kind", bound=type)


def is_open(size: Any) -> bool:
  """Whether a size is symbolic: any number from 1, known when it is called."""
  return bool(export.is_symbolic_dim(size))


def at_most(size: Any, most: int) -> bool:
  """Whether a size is surely no larger than `most`; a symbolic one is not."""
  return not is_open(size) and bool(size <= most)


def require_length(op: str, length: Any, form: str, instead: str) -> None:
  """Raises a ValueError if a form that needs L gets a symbolic one.

  Args:
    op: the op, for the message.
    length: L.
    form: what needs it, for the message, such as 'method "associative"'.
    instead: what works with any length, for the message.
  """
  require(
    not is_open(length),
    f"{op}: {form} needs the number L of tokens, got the symbolic length "
    f"{length}; export a fixed length, or use {instead}",
  )


def serializable(kind: Kind) -> Kind:
  """A class decorator: exported programs with this NamedTuple can be saved."""
  # Registered already where its module is loaded once more.
  with contextlib.suppress(ValueError):
    export.register_namedtuple_serialization(
      kind, serialized_name=f"jaxmodels.{kind.__name__}"
    )
  return kind
