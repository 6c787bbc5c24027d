"""Models and mixers of equal size, for fair comparisons."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

# Widths that are tried between two that a model accepts.
_LARGEST_GAP = 1024
_LARGEST_WIDTH = 1 << 20
# Tokens of the sequence whose shape `init` gets.
_LENGTH = 8


def count_parameters(module: nn.Module, inputs: Any = None) -> int:
  """Counts the numbers in the collection "params"; nothing is computed.

  Args:
    module: A model or a mixer.
    inputs: What the module is called with, or its shape and dtype. By default
      tokens `[1, L]` for a module with a field `vocab_size`, and x `[1, L, D]`
      for one with a field `width`, where D is `input_width` if it has that too.

  Raises:
    ValueError: The module rejects its fields, or it needs `inputs`.
  """
  if inputs is None:
    inputs = _inputs(module)
  shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
  leaves = jax.tree.leaves(shapes.get("params", {}))
  return sum(math.prod(leaf.shape) for leaf in leaves)


def _inputs(module: nn.Module) -> jax.ShapeDtypeStruct:
  if getattr(module, "vocab_size", None) is not None:
    return jax.ShapeDtypeStruct((1, _LENGTH), np.int32)
  if hasattr(module, "width"):
    width = getattr(module, "input_width", module.width)
    return jax.ShapeDtypeStruct((1, _LENGTH, width), np.float32)
  raise ValueError(
    f"{type(module).__name__} has neither vocab_size nor width: give inputs"
  )


def equal_width(
  make_model: Callable[[int], nn.Module],
  target: int | nn.Module,
  *,
  inputs: Callable[[int], Any] | None = None,
) -> int:
  """Returns the width at which a model has a given number of parameters.

    width = equal_width(lambda d: GLA(width=d, heads=4), RetNet(width=256))

  Only widths that the model accepts count. A model raises `ValueError` for a
  width that its heads do not divide.

  Args:
    make_model: Returns the model or mixer of a width. Its number of parameters
      must grow with the width.
    target: The number of parameters; or a model or mixer that has it.
    inputs: Returns the `inputs` of `count_parameters` for a width; None for the
      default of that function. It is not used for `target`.

  Returns:
    The width whose number of parameters is nearest; if two are equally near,
    the smaller one.

  Raises:
    ValueError: The model accepts no width, or none reaches the target.
  """
  wanted = count_parameters(target) if isinstance(target, nn.Module) else target

  @functools.cache
  def count(width: int) -> int | ValueError:
    try:
      shape = None if inputs is None else inputs(width)
      return count_parameters(make_model(width), shape)
    except ValueError as error:
      return error

  def accepted(width: int, step: int) -> tuple[int, int] | None:
    """The nearest width that is accepted, from `width` on, and its count."""
    for near in range(width, width + step * _LARGEST_GAP, step):
      found = count(near) if near > 0 else None
      if isinstance(found, int):
        return near, found
    return None

  low, high = 0, 1
  while (found := accepted(high, 1)) is None or found[1] < wanted:
    if found is None or high >= _LARGEST_WIDTH:
      raise ValueError(
        f"no width up to {high + _LARGEST_GAP} has {wanted:,} parameters"
      ) from _error(count(high))
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    between = accepted(middle, 1)
    if between is not None and between[1] >= wanted:
      high, found = middle, between
    else:
      low = middle
  below = accepted(found[0] - 1, -1)
  if below is not None and wanted - below[1] <= found[1] - wanted:
    return below[0]
  return found[0]


def _error(found: int | ValueError) -> ValueError | None:
  return found if isinstance(found, ValueError) else None
