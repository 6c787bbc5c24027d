"""Ops on arrays that carry their sharding in their type.

The axes of `jax.make_mesh` are Explicit by default: the type of an array says
over which of them it is cut, and each primitive must know the sharding of its
result. A recurrence would need an annotation at every product, reshape and
loop. So an op runs with these axes as Auto, where the compiler places what is
inside, and its results get the shardings that its letters imply.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxmodels.ops.engine.checks import require

__all__ = ["by_letters", "explicit_mesh", "place_like", "run_by_letters"]


def explicit_mesh(arrays: Any) -> AbstractMesh | None:
  """The mesh of a pytree of arrays, or the context's, if it has Explicit axes.

  None where there are no Explicit axes: on one device, under Auto axes, and
  in `shard_map` over all axes.
  """
  meshes = [
    jax.typeof(x).sharding.mesh
    for x in jax.tree.leaves(arrays)
    if isinstance(x, jax.Array)
  ]
  for mesh in (*meshes, jax.sharding.get_abstract_mesh()):
    if AxisType.Explicit in (mesh.axis_types or ()):
      return mesh
  return None


def by_letters(
  returns: Any, of: str | None = None, **letters: Any
) -> Callable[[Callable], Callable]:
  """Decorates an op, so that it takes arrays cut over Explicit axes.

  One letter stands for one axis, from the first on. "..." stands for the
  batch axes, "L" for the length, which must not be cut, and "_" for an axis
  that no result keeps cut; so do the axes behind the last letter. A result is
  cut along a letter as the first argument is that is cut along it.

  Args:
    returns: the letters of the result: a string, or a pytree of strings that
      is a prefix of it.
    of: the argument, with letters for all its axes, that tells how many batch
      axes there are, if letters have "...".
    **letters: those of every argument that holds arrays, likewise.
      `segment_ids` has "...L", unless it is given.
  """
  letters = {"segment_ids": "...L"} | letters

  def decorate(op):
    signature = inspect.signature(op)

    @functools.wraps(op)
    def placed(*args, **kwargs):
      if explicit_mesh((args, kwargs)) is None:
        return op(*args, **kwargs)
      given = signature.bind(*args, **kwargs).arguments
      arrays = {name: x for name, x in given.items() if name in letters}
      options = {name: x for name, x in given.items() if name not in letters}
      return run_by_letters(
        op.__name__,
        lambda arrays: op(**arrays, **options),
        arrays,
        letters,
        returns,
        jnp.ndim(arrays[of]) + len("...") - len(letters[of]) if of else 0,
      )

    return placed

  return decorate


def run_by_letters(
  name: str,
  function: Callable[[Any], Any],
  arrays: Mapping[str, Any],
  letters: Mapping[str, Any],
  returns: Any,
  batch: int = 0,
) -> Any:
  """`function(arrays)` with all Explicit axes as Auto, placed by letters.

  Args:
    name: the op, for messages.
    function: of the arrays alone.
    arrays: by name; None and pytrees too.
    letters: those of each array, as for `by_letters`.
    returns: those of the result.
    batch: how many axes "..." stands for.
  """
  mesh = explicit_mesh(arrays)
  if mesh is None:
    return function(arrays)
  cuts: dict[Any, tuple[str, ...]] = {}
  for argument, tree in arrays.items():
    if tree is None:
      continue
    axes = jax.tree.broadcast(letters[argument], tree)
    for x, own in zip(
      jax.tree.leaves(tree), jax.tree.leaves(axes), strict=True
    ):
      _bind(cuts, f"{name}: {argument}", x, _expand(own, batch))

  def sharding(axes):
    used: list[str] = []  # A mesh axis cuts one axis of an array.
    spec: list[Any] = []
    for key in _expand(axes, batch):
      over = tuple(axis for axis in cuts.get(key, ()) if axis not in used)
      used += over
      spec.append(over or None)
    return NamedSharding(mesh, PartitionSpec(*spec))

  types = zip(mesh.axis_names, mesh.axis_types, strict=True)
  explicit = tuple(axis for axis, kind in types if kind == AxisType.Explicit)
  run = jax.sharding.auto_axes(
    function, axes=explicit, out_sharding=jax.tree.map(sharding, returns)
  )
  return run(dict(arrays))


def place_like(x: jax.Array, other: jax.Array) -> jax.Array:
  """x, cut over Explicit axes as `other` of the same shape is."""
  if explicit_mesh((x, other)) is None:
    return x
  return jax.sharding.reshard(x, jax.typeof(other).sharding)


def _expand(axes: str, batch: int) -> list[Any]:
  """A key for each axis: its letter, or its number in the batch."""
  tail = axes.removeprefix("...")
  return [*(range(batch) if tail != axes else ()), *tail]


def _bind(cuts, argument, x, keys):
  """Notes over which mesh axes each letter is cut first."""
  spec = jax.typeof(x).sharding.spec
  for key, entry in zip(keys, spec, strict=False):
    over = entry if isinstance(entry, tuple) else (entry,) if entry else ()
    require(
      key != "L" or not over,
      f"{argument} must not have its length cut over the Explicit mesh axis "
      f"{', '.join(map(repr, over))}, got {spec}; cut it inside "
      "`jax.shard_map` and name the axis by axis_name, or reshard it",
    )
    if over and key != "_":
      cuts.setdefault(key, over)
