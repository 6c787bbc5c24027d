"""The mesh of devices, and the sharding of states and batches.

The mesh has three axes:
- "data": sequences are sharded over it.
- "fsdp": sequences, all large parameters and their optimizer states are sharded
  over it. The compiler gathers parameters where a layer needs them (Zhao et al.
  2023, arXiv:2304.11277).
- "sequence": the tokens of every sequence are sharded over it.
"""

import math
import types
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import schema
from train.devices import parameter_use
from train.errors import UserError, one_line
from train.losses.base import is_sequence
from train.parameters import path_of

AXES = ("data", "fsdp", "sequence")

# Mesh axes of the examples of a batch.
EXAMPLES = ("data", "fsdp")

# The key of a model's inputs in a batch.
_INPUTS = jax.tree_util.DictKey("inputs")
# The `layers` of a model without scans over layers.
EMPTY: Mapping[str, int] = types.MappingProxyType({})


def make_mesh(
  mesh: schema.Mesh, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Returns a mesh of devices.

  Args:
    mesh: Number of devices along each axis, none of them -1.
    devices: The mesh uses the first of these; `jax.devices()` if None.
  """
  shape = tuple(getattr(mesh, name) for name in AXES)
  first = list(devices or jax.devices())[: math.prod(shape)]
  # `jax.make_mesh` splits the physical axes of a slice only on TPU v5e. On
  # other TPUs it fails for a 2 x 4 x 2 mesh on a 4 x 4 slice.
  laid_out = mesh_utils.create_device_mesh(
    shape, first, allow_split_physical_axes=True
  )
  # Explicit axes make sharding a part of types, and modules that do not handle
  # meshes fail.
  return jax.sharding.Mesh(
    laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def partition(
  shape: tuple[int, ...], sizes: Mapping[str, int], layers: int = 0
) -> PartitionSpec:
  """Returns the sharding of an array of the state.

  Args:
    shape: The array's shape.
    sizes: Devices along each mesh axis.
    layers: The number of first axes along which a scan reads one entry at a
      time: see `train.devices.parameter_use.layer_axes`.

  Returns:
    "fsdp" along one of the last two axes: the larger one that is divisible by
    the number of "fsdp" devices (the first if both are equal). Vectors and
    arrays that are not divisible are replicated. Leading axes, such as the
    layers of a scan, are never sharded.
  """
  lead = max(len(shape) - 2, layers)
  if len(shape) - lead < 2:
    return PartitionSpec()
  axes = [i for i in range(lead, len(shape)) if not shape[i] % sizes["fsdp"]]
  if not axes:
    return PartitionSpec()
  cut = max(axes, key=lambda i: shape[i])
  return PartitionSpec(
    *("fsdp" if i == cut else None for i in range(len(shape)))
  )


def shardings(
  mesh: jax.sharding.Mesh, state: Any, layers: Mapping[str, int] = EMPTY
) -> Any:
  """Returns the sharding of every array of a state.

  Args:
    mesh: The mesh.
    state: A state, or any pytree with the paths of its parameters. Only the
      shapes are used.
    layers: See `train.devices.parameter_use.layer_axes`.
  """

  def place(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
    count = parameter_use.axes_of(path_of(keys), layers)
    return NamedSharding(mesh, partition(np.shape(leaf), mesh.shape, count))

  return jax.tree_util.tree_map_with_path(place, state)


def batch_specs(
  batch: Mapping[str, Any], sequence: Container[str] | None
) -> dict[str, Any]:
  """Returns the mesh axes of every array of a batch.

  Args:
    batch: Arrays or shapes `[B, ...]`.
    sequence: See `train.step.Learner`.
  """

  def spec(keys: tuple[Any, ...], x: Any) -> PartitionSpec:
    if is_sequence(path_of(keys), x, sequence):
      return PartitionSpec(EXAMPLES, "sequence")
    return PartitionSpec(EXAMPLES)

  return jax.tree_util.tree_map_with_path(spec, dict(batch))


def on_mesh(mesh: Any, specs: Any) -> Any:
  """Returns the shardings of a pytree of `PartitionSpec`s."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


class BatchLayout:
  """The rows of every batch that this process reads, and their sharding.

  The rows of a batch are split into equal parts, one per index along "data" and
  "fsdp". A process reads the parts of its own devices. If "sequence" spans
  several processes, they read the same rows, and each keeps its shards.
  """

  def __init__(
    self, mesh: jax.sharding.Mesh, sequence: Container[str] | None = None
  ):
    self._mesh, self._sequence = mesh, sequence
    self._parts = mesh.shape["data"] * mesh.shape["fsdp"]
    by_example = NamedSharding(mesh, PartitionSpec(EXAMPLES))
    cut = by_example.addressable_devices_indices_map((self._parts,))
    self._own = sorted(
      {index[0].indices(self._parts)[0] for index in cut.values() if index}
    )

  def rows(self, batch_size: int) -> list[int]:
    """Returns the rows of a batch that this process reads."""
    size = batch_size // self._parts
    return [part * size + row for part in self._own for row in range(size)]

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Joins the rows of all processes.

    Args:
      batch: The rows of this process, arrays `[len(rows), ...]`.

    Returns:
      Arrays `[B, ...]`, sharded over all devices.
    """
    specs = batch_specs(batch, self._sequence)
    return jax.tree.map(self._put, dict(batch), on_mesh(self._mesh, specs))

  def _put(self, x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    size = x.shape[0] // len(self._own)
    shape = (size * self._parts, *x.shape[1:])

    def piece(index: tuple[slice, ...]) -> np.ndarray:
      part = index[0].indices(shape[0])[0] // size
      first = self._own.index(part) * size
      return x[(slice(first, first + size), *index[1:])]

    # Explicit transfers per device, which `jax.transfer_guard` allows.
    places = sharding.addressable_devices_indices_map(shape)
    pieces = [
      jax.device_put(piece(index), device)
      for device, index in places.items()
      if index is not None
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def gather_tables(mesh: jax.sharding.Mesh, tree: Any, is_table: Any) -> Any:
  """Replicates the tables of lookups in parameters or their gradients.

  Otherwise the compiler shards the results of lookups in the tables, and cannot
  convert that sharding to the sharding of the batch.

  Args:
    mesh: The mesh.
    tree: Parameters, or gradients.
    is_table: What `train.devices.parameter_use.looked_up` returned for the
      parameters.
  """
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda x, table: jax.lax.with_sharding_constraint(x, whole) if table else x,
    tree,
    is_table,
  )


def by_example(mesh: jax.sharding.Mesh, size: int) -> Callable[..., Any]:
  """Shards what each method of a module returns like the batch.

  Otherwise the compiler may cut the features of activations as the parameters
  are cut, and gather the batch in place of the parameters.

  Args:
    mesh: The mesh.
    size: The number of examples.

  Returns:
    An interceptor for `flax.linen.intercept_methods`.
  """
  place = NamedSharding(mesh, PartitionSpec(EXAMPLES))

  def shard(x: Any) -> Any:
    if isinstance(x, jax.Array) and x.ndim > 1 and x.shape[0] == size:
      return jax.lax.with_sharding_constraint(x, place)
    return x

  def intercept(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    return jax.tree.map(shard, method(*args, **kwargs))

  return intercept


def cut_model(model: nn.Module) -> nn.Module:
  """Returns the model for sequences that are sharded over "sequence".

  Raises:
    UserError: The model has no field `axis_name`.
  """
  if not hasattr(model, "axis_name"):
    raise UserError(
      f"config.mesh.sequence must be 1: {type(model).__name__} has no field"
      " axis_name, so its sequences cannot be sharded"
    )
  return model.clone(axis_name="sequence")


def check_pieces(
  layout: schema.Mesh,
  model: nn.Module,
  variables: Any,
  inputs: Any,
  devices: Sequence[Any] | None = None,
  sequence: Container[str] | None = None,
) -> None:
  """Checks by tracing that the model accepts sharded sequences.

  Args:
    layout: Devices along each axis.
    model: The model for whole sequences.
    variables: Its variables.
    inputs: The inputs of an example `[L, ...]`, or their shapes and dtypes; or
      L, of tokens.
    devices: As in `make_mesh`.
    sequence: See `train.step.Learner`.

  Raises:
    UserError: It does not; a shard may be too short for a convolution.
  """
  if layout.sequence == 1:
    return
  cut = cut_model(model)
  if isinstance(inputs, int):
    inputs = jax.ShapeDtypeStruct((inputs,), np.int32)
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), inputs
  )
  along = PartitionSpec(None, "sequence")
  specs = jax.tree_util.tree_map_with_path(
    lambda keys, x: (
      along
      if is_sequence(path_of((_INPUTS, *keys)), x, sequence)
      else PartitionSpec()
    ),
    one,
  )
  lifted = jax.shard_map(
    lambda variables, inputs: cut.apply(variables, inputs)[0],
    mesh=make_mesh(layout, devices),
    in_specs=(PartitionSpec(), specs),
    out_specs=along,
    axis_names={"sequence"},
  )
  try:
    jax.eval_shape(lifted, variables, one)
  except ValueError as error:
    raise UserError(
      f"config.mesh.sequence is {layout.sequence}, which the model does not"
      f" support: {one_line(error)}; lower it, or use longer sequences"
    ) from error
