"""A mesh of devices, and what of a state and of a batch goes where.

The axes are "data" (each group of devices takes other sequences), "fsdp" (so
do these, and each keeps a piece of every large parameter and of its optimizer
state, which the compiler gathers where a layer needs it: Zhao et al. 2023,
arXiv:2304.11277) and "sequence" (each takes a piece of every sequence).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import schema
from train.errors import UserError, one_line
from train.parameters import is_stacked, path_of

AXES = ("data", "fsdp", "sequence")

# Sequences and tokens of arrays [B, L].
BATCH = PartitionSpec(("data", "fsdp"), "sequence")

# Paths of embeddings and of the output layer. Vocabularies are large and often
# not divisible, so these are sharded along their channels.
TABLES = r"(^|/)(table|readout|embedding)$"


def make_mesh(
  mesh: schema.Mesh, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Returns a mesh of devices.

  Args:
    mesh: Number of devices along each axis, none of them -1.
    devices: The first of these are used; `jax.devices()` if None.
  """
  shape = tuple(getattr(mesh, name) for name in AXES)
  first = list(devices or jax.devices())[: math.prod(shape)]
  # `jax.make_mesh` splits the axes of a slice on a TPU v5e alone, and fails
  # on 2 x 4 x 2 chips of another's 4 x 4.
  laid_out = mesh_utils.create_device_mesh(
    shape, first, allow_split_physical_axes=True
  )
  # Explicit axes make sharding a part of types; modules that know nothing of
  # meshes fail there.
  return jax.sharding.Mesh(
    laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def partition(
  path: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> PartitionSpec:
  """Returns the mesh axes of an array of the state.

  Args:
    path: Its names, joined by slashes. The moments of the optimizer end in
      the path of their parameter, and so go where it goes.
    shape: Its shape.
    sizes: Devices along each mesh axis.

  Returns:
    "fsdp" along the larger of the last two axes that it divides (the first of
    equal ones); along the last of a table of tokens. Vectors are whole on
    every device, and so is what "fsdp" does not divide. Axes in front, such as
    the layers under a scan, are never cut: a scan reads one layer at a time.
  """
  lead = max(len(shape) - 2, int(is_stacked(path)))
  if len(shape) - lead < 2:
    return PartitionSpec()
  first = len(shape) - 1 if re.search(TABLES, path) else lead
  axes = [i for i in range(first, len(shape)) if not shape[i] % sizes["fsdp"]]
  if not axes:
    return PartitionSpec()
  cut = max(axes, key=lambda i: shape[i])
  return PartitionSpec(
    *("fsdp" if i == cut else None for i in range(len(shape)))
  )


def shardings(mesh: jax.sharding.Mesh, state: Any) -> Any:
  """Returns the sharding of every array of a state.

  Args:
    mesh: The mesh.
    state: A state, or any pytree with the paths of its parameters; only
      shapes are read.
  """

  def place(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
    spec = partition(path_of(keys), np.shape(leaf), dict(mesh.shape))
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, state)


class BatchLayout:
  """The rows of every batch that this process reads, and their sharding.

  The rows of a batch are cut into equal parts, one for each place along "data"
  and "fsdp"; a process reads the parts of its own devices. Where "sequence"
  crosses processes, several read the same rows, and each keeps its pieces.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._sharding = NamedSharding(mesh, BATCH)
    self._parts = mesh.shape["data"] * mesh.shape["fsdp"]
    cut = self._sharding.addressable_devices_indices_map(
      (self._parts, mesh.shape["sequence"])
    )
    self._own = sorted(
      {index[0].indices(self._parts)[0] for index in cut.values() if index}
    )

  def rows(self, batch_size: int) -> list[int]:
    """Returns the rows to read of a batch."""
    size = batch_size // self._parts
    return [part * size + row for part in self._own for row in range(size)]

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Joins the rows that all processes have read.

    Args:
      batch: Arrays `[len(rows), L]`.

    Returns:
      Arrays `[B, L]`, over all devices.
    """
    return {name: self._put(x) for name, x in batch.items()}

  def _put(self, x: np.ndarray) -> jax.Array:
    size = x.shape[0] // len(self._own)
    shape = (size * self._parts, x.shape[1])

    def piece(index: tuple[slice, ...]) -> np.ndarray:
      part = index[0].indices(shape[0])[0] // size
      first = self._own.index(part) * size
      return x[first : first + size, index[1]]

    # Sent piece by piece, which a guard of transfers sees to be meant.
    places = self._sharding.addressable_devices_indices_map(shape)
    pieces = [
      jax.device_put(piece(index), device)
      for device, index in places.items()
      if index is not None
    ]
    return jax.make_array_from_single_device_arrays(
      shape, self._sharding, pieces
    )


def gather_tables(mesh: jax.sharding.Mesh, tree: Any) -> Any:
  """Asks for whole tables of tokens, in parameters or in their gradients.

  Left to itself the compiler would rather cut what is looked up in them, and
  then cannot get from there to pieces of the batch.
  """
  whole = NamedSharding(mesh, PartitionSpec())

  def gather(keys: tuple[Any, ...], leaf: Any) -> Any:
    if re.search(TABLES, path_of(keys)):
      return jax.lax.with_sharding_constraint(leaf, whole)
    return leaf

  return jax.tree_util.tree_map_with_path(gather, tree)


def cut_model(model: nn.Module) -> nn.Module:
  """Returns the model for sequences that are sharded over "sequence".

  Raises:
    UserError: It cannot, having no field `axis_name`.
  """
  if not hasattr(model, "axis_name"):
    raise UserError(
      "config.mesh.sequence must be 1: the sequences of"
      f" {type(model).__name__} cannot be cut, it has no field axis_name"
    )
  return model.clone(axis_name="sequence")


def check_pieces(
  layout: schema.Mesh,
  model: nn.Module,
  params: Any,
  length: int,
  devices: Sequence[Any] | None = None,
) -> None:
  """Checks by tracing that the model accepts sharded sequences.

  Args:
    layout: Devices along each axis.
    model: The model for whole sequences.
    params: Its parameters.
    length: Tokens per whole sequence.
    devices: As in `make_mesh`.

  Raises:
    UserError: It cannot; a piece may be too short for a convolution.
  """
  if layout.sequence == 1:
    return
  cut = cut_model(model)
  along = PartitionSpec(None, "sequence")
  lifted = jax.shard_map(
    lambda params, tokens: cut.apply({"params": params}, tokens)[0],
    mesh=make_mesh(layout, devices),
    in_specs=(PartitionSpec(), along),
    out_specs=along,
    axis_names={"sequence"},
  )
  tokens = jax.ShapeDtypeStruct((1, length), np.int32)
  try:
    jax.eval_shape(lifted, params, tokens)
  except ValueError as error:
    raise UserError(
      f"config.mesh.sequence is {layout.sequence}, which the model cannot"
      f" take: {one_line(error)}; lower it, or give longer sequences"
    ) from error
