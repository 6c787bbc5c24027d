"""Further calls of a wrong form, to find its fault."""

from collections.abc import Iterator

import jax
import numpy as np

from jaxmodels.testing.diagnosis import Influence, Probes
from jaxmodels.testing.errors import relative_error, tolerance, widest
from jaxmodels.testing.evaluate import Evaluator, Run

# Relative to the largest change; less counts as rounding.
_MOVED = 1e-4


def probe(
  run: Run, definition: Evaluator, op: Evaluator, reverse: bool
) -> Probes:
  """Sets each argument to zero, and halves each at single tokens.

  The shapes are those of the run, so no program is compiled.
  """
  return Probes(
    [
      name
      for name in run.arguments
      if _right_without(name, run, definition, op)
    ],
    [] if reverse else list(_influences(run, definition, op)),
  )


def _right_without(
  name: str, run: Run, definition: Evaluator, op: Evaluator
) -> bool:
  """Whether values are right, and not all 0, if an argument is zero."""
  zero = jax.tree.map(np.zeros_like, run.arguments[name])
  run = run._replace(arguments={**run.arguments, name: zero})
  cotangents, wanted = run.truth(definition)
  got = op(run.arguments, run.ids, cotangents)
  allowed = tolerance(run.dtype)
  return bool(wanted["y"].any()) and all(
    relative_error(got[what], wanted[what]) <= allowed
    for what in wanted
    if not what.startswith("gradient")
  )


def _influences(
  run: Run, definition: Evaluator, op: Evaluator
) -> Iterator[Influence]:
  """The influences of a token in the middle and of the last token."""
  cotangents, wanted = run.truth(definition)
  got = op(run.arguments, run.ids, cotangents)
  for token in sorted({run.length // 2, run.length - 1}):
    for name, argument in run.arguments.items():
      if name in op.whole:
        continue
      halved = argument.copy()
      halved[:, token] = (halved[:, token] / 2).astype(halved.dtype)
      other = run._replace(arguments={**run.arguments, name: halved})
      other_y = op(other.arguments, run.ids, cotangents)["y"]
      other_wanted = other.truth(definition)[1]["y"]
      yield Influence(
        name,
        token,
        _moved(other_y, got["y"]),
        _moved(other_wanted, wanted["y"]),
      )


def _moved(y: np.ndarray, before: np.ndarray) -> np.ndarray:
  """[L] bool, the tokens at which y [B, L, ...] changes."""
  change = np.abs(widest(y) - widest(before))
  change = np.moveaxis(change, 1, 0).reshape(y.shape[1], -1).max(1)
  return change > _MOVED * max(np.nanmax(change), np.finfo(np.float32).tiny)
