"""Finds the first block of a model that differs from another implementation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxmodels.interop.config import FolderError
from jaxmodels.models import LanguageModel
from jaxmodels.models.block import Block

__all__ = ["Drift", "activations", "compare"]


class Drift(NamedTuple):
  """The first block whose output differs.

  Attributes:
    block: Its name: "embedding", "layer_0", ..., "logits".
    error: max|a - b| / max|b| of its output.
    before: The error of the block before it, 0 for the first.
  """

  block: str
  error: float
  before: float


def activations(
  model: LanguageModel, variables: Mapping[str, Any], tokens: jax.Array
) -> dict[str, np.ndarray]:
  """The stream after the embedding and after each layer, and the logits.

  The names are "embedding", "layer_0", ..., "logits". The model must not have
  `scan_layers`. With `output_hidden_states=True`, a model of transformers
  returns the same list, except that its last entry has passed the final norm.

  Args:
    model: The model.
    variables: Its variables.
    tokens: [B, L].
  """
  if model.scan_layers:
    raise FolderError(
      "activations: the model has scan_layers: load it without scan_layers"
    )
  found: dict[str, np.ndarray] = {}

  def keep(next_call, args, kwargs, context):
    if isinstance(context.module, Block) and context.method_name == "__call__":
      found.setdefault("embedding", np.asarray(args[0]))
      result = next_call(*args, **kwargs)
      found[str(context.module.name)] = np.asarray(result[0])
      return result
    return next_call(*args, **kwargs)

  with nn.intercept_methods(keep):
    logits, _ = model.apply(variables, tokens)
  return {**found, "logits": np.asarray(logits)}


def compare(
  ours: Mapping[str, Any],
  theirs: Mapping[str, Any] | Sequence[Any],
  tolerance: float = 5e-5,
) -> Drift | None:
  """Names the first block that drifts, and by how much.

  Args:
    ours: Outputs by name, as `activations` returns them.
    theirs: Those of the other implementation, under the same names or in the
      same order; None for a block whose output is not known.
    tolerance: The largest error, as max|a - b| / max|b|, which is no drift.

  Returns:
    The first block beyond the tolerance, or None if there is none.

  Raises:
    FolderError: The two have other names, numbers or shapes of outputs.
  """
  if not isinstance(theirs, Mapping):
    if len(theirs) != len(ours):
      raise FolderError(
        f"compare: there are {len(ours)} outputs of ours ({', '.join(ours)}), "
        f"and {len(theirs)} of theirs"
      )
    theirs = dict(zip(ours, theirs, strict=True))
  before = 0.0
  for name, value in ours.items():
    other = theirs.get(name)
    if other is None:
      continue
    value, other = np.asarray(value, np.float64), np.asarray(other, np.float64)
    if value.shape != other.shape:
      raise FolderError(
        f"compare: {name} has the shape {list(value.shape)} in ours and "
        f"{list(other.shape)} in theirs"
      )
    scale = np.max(np.abs(other), initial=0) or 1.0
    error = float(np.max(np.abs(value - other), initial=0) / scale)
    if not error <= tolerance:
      return Drift(name, error, before)
    before = error
  return None
