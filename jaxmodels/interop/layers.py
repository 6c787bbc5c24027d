"""Where the parameters of each layer are, if layers are stacked or not."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxmodels.interop.config import FolderError
from jaxmodels.interop.int8 import Int8Kernel
from jaxmodels.models import LanguageModel

__all__ = ["Layers"]

_LAYER = re.compile(r"backbone/layer_(\d+)/")


class Layers:
  """Puts parameters of single layers into the variables of a model, or gets.

  A model with `scan_layers` stacks the parameters of layers at equal places of
  its pattern. Paths here are those of the model without `scan_layers`.

  Attributes:
    paths: The paths of all parameters.
    shapes: The shapes of the variables, by the path of the variable.
  """

  def __init__(self, model: LanguageModel):
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    made = jax.eval_shape(
      model.copy(axis_name=None, parent=None).init, jax.random.key(0), tokens
    )
    flat = traverse_util.flatten_dict(made["params"], sep="/")
    self.shapes = {path: leaf.shape for path, leaf in flat.items()}
    blocks = re.compile(r"backbone/repeats/block_(\d+)/")
    found = [blocks.match(path) for path in self.shapes]
    self._period = max((1 + int(m[1]) for m in found if m), default=0)
    self.paths = {
      path
      for stored in self.shapes
      for path in self._unstacked(stored, model.depth)
    }

  def _unstacked(self, path: str, depth: int) -> list[str]:
    match = re.match(r"backbone/repeats/block_(\d+)/(.*)", path)
    if not match:
      return [path]
    layers = range(int(match[1]), depth, self._period)
    return [f"backbone/layer_{i}/{match[2]}" for i in layers]

  def stored_path(self, path: str) -> str:
    """The path of the variable that holds a parameter."""
    match = _LAYER.match(path)
    if not self._period or not match:
      return path
    place = int(match[1]) % self._period
    return f"backbone/repeats/block_{place}/{path[match.end() :]}"

  def _round(self, path: str) -> int | None:
    match = _LAYER.match(path)
    return int(match[1]) // self._period if self._period and match else None

  def get(self, params: Mapping[str, Any], path: str) -> Any:
    """The parameter of one layer."""
    stored = params[self.stored_path(path)]
    index = self._round(path)
    return stored if index is None else stored[index]

  def put(
    self,
    params: dict[str, Any],
    path: str,
    value: np.ndarray | Int8Kernel,
    placement: Any,
  ) -> None:
    """Puts the parameter of one layer on its devices.

    Args:
      params: The parameters so far, to which this one is added.
      path: The path of the parameter.
      value: Its value.
      placement: A sharding, a function of path and shape, or None.

    Raises:
      FolderError: The shape is not that of the model.
    """
    stored, index = self.stored_path(path), self._round(path)
    shape = self.shapes[stored]
    expected = shape if index is None else shape[1:]
    if value.shape != expected:
      raise FolderError(
        f"the tensors of {path} have the shape {list(value.shape)}, but the "
        f"config needs {list(expected)}"
      )
    where = placement(stored, shape) if callable(placement) else placement
    if index is None:
      params[stored] = jax.device_put(value, where)
      return
    if stored not in params:
      make = functools.partial(jnp.zeros, shape, value.dtype)
      params[stored] = jax.jit(make, out_shardings=where)()
    stack = params[stored]
    params[stored] = _at(stack, _beside(stack, value), index)


def _beside(stack: jax.Array, value: Any) -> Any:
  """The value of one layer, sharded like the stack of all layers."""
  sharding = stack.sharding
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return value
  spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
  return jax.device_put(value, jax.NamedSharding(sharding.mesh, spec))


@functools.partial(jax.jit, donate_argnums=0)
def _at(stack: jax.Array, value: jax.Array, index: int) -> jax.Array:
  return jax.lax.dynamic_update_index_in_dim(stack, value, index, 0)
