"""Splits kernels over the devices of a mesh, which the compiler cannot do.

The mesh is that of the context: of `jax.set_mesh`, or the one that the trainer
sets. Inside of `jax.shard_map` nothing is left to split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

__all__ = ["can_split", "over_mesh"]


def can_split() -> bool:
  """Whether there is one device, or a mesh to split a kernel over."""
  return jax.device_count() == 1 or not _mesh().empty


def over_mesh(
  function: Callable[..., Any],
  arrays: Sequence[Any],
  letters: Sequence[str],
  returns: Any,
  units: Mapping[str, int],
) -> Any:
  """Runs a function with some axes split over the mesh's Auto axes.

  Each axis of the mesh splits the first letter of `units` whose size it
  divides, and repeats the work if it divides none.

  Args:
    function: takes and returns arrays, of which each device has its part.
    arrays: its arguments; None is allowed.
    letters: the letters of each argument's first axes, such as "B L D".
    returns: the letters of each result, as a pytree of strings.
    units: the letters of axes that may be split, and the number of elements
      that stay together.
  """
  mesh = _mesh()
  auto = [
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Auto
  ]
  if not auto:
    return function(*arrays)
  sizes = {
    key: size
    for x, own in zip(arrays, letters, strict=True)
    if x is not None
    for key, size in zip(own.split(), x.shape, strict=False)
  }
  split: dict[str, tuple[str, ...]] = dict.fromkeys(units, ())
  for name in auto:
    for key in units:
      if sizes[key] % (mesh.shape[name] * units[key]) == 0:
        sizes[key] //= mesh.shape[name]
        split[key] += (name,)
        break

  def spec(own):
    return PartitionSpec(*(split.get(key) or None for key in own.split()))

  # A kernel does not say over which axes its result varies.
  run = jax.shard_map(
    function,
    in_specs=tuple(map(spec, letters)),
    out_specs=jax.tree.map(spec, returns),
    axis_names=set(auto),
    check_vma=False,
  )
  return run(*arrays)


def _mesh() -> AbstractMesh:
  """The mesh of the context, also the one of a surrounding `shard_map`."""
  return jax.sharding.get_abstract_mesh()
