"""The programs inside a traced program."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core

__all__ = ["inner_programs"]


def inner_programs(equation: Any) -> Iterator[Any]:
  """The programs that an equation runs, such as the body of a scan."""
  for value in equation.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if isinstance(part, core.ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, core.Jaxpr):
        yield part
