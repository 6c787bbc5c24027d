"""Ops on arrays that carry their sharding in their type.

The axes of `jax.make_mesh` are Explicit by default: the type of an array says
over which of them it is cut, and each primitive must know the sharding of its
result. A recurrence would need an annotation at every product, reshape and
loop. So an op runs with these axes as Auto, where the compiler places what is
inside, and its results get the shardings that its letters imply.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxmodels.ops.engine.checks import (
  alternatives,
  count,
  expand,
  keys,
  require,
)

__all__ = ["by_letters", "explicit_mesh", "place_like", "run_by_letters"]

_Op = TypeVar("_Op", bound=Callable[..., Any])


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


def by_letters(returns: Any, **letters: Any) -> Callable[[_Op], _Op]:
  """Decorates an op, so that it takes arrays cut over Explicit axes.

  Letters are those of `jaxmodels.ops.engine.checks`. A result is cut along a
  letter as the first argument is that is cut along it. The length, L, must not
  be cut.

  Args:
    returns: the letters of the result: a string, or a pytree of strings that
      is a prefix of it.
    **letters: those of every argument that holds arrays, likewise.
      `segment_ids` has "... L", unless it is given.
  """
  letters = {"segment_ids": "... L"} | letters

  def decorate(op: _Op) -> _Op:
    signature = inspect.signature(op)

    @functools.wraps(op)
    def placed(*args: Any, **kwargs: Any) -> Any:
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
      )

    return cast(_Op, placed)

  return decorate


def run_by_letters(
  name: str,
  function: Callable[[Any], Any],
  arrays: Mapping[str, Any],
  letters: Mapping[str, Any],
  returns: Any,
) -> Any:
  """`function(arrays)` with all Explicit axes as Auto, placed by letters.

  Args:
    name: the op, for messages.
    function: of the arrays alone.
    arrays: by name; None and pytrees too.
    letters: those of each array, as for `by_letters`.
    returns: those of the result.
  """
  mesh = explicit_mesh(arrays)
  if mesh is None:
    return function(arrays)
  with_letters = [
    (argument, x, own)
    for argument, tree in arrays.items()
    if tree is not None
    for x, own in _leaves(tree, letters[argument])
  ]
  counts = (count(own, jnp.ndim(x)) for _, x, own in with_letters)
  batch = next((n for n in counts if n is not None), 0)
  cuts: dict[Any, tuple[str, ...]] = {}
  for argument, x, own in with_letters:
    axes = keys(own, jnp.ndim(x), batch)
    if axes is not None:  # Else the op will say so.
      _bind(cuts, f"{name}: {argument}", x, axes)

  def sharding(own):
    used: list[str] = []  # A mesh axis cuts one axis of an array.
    spec: list[Any] = []
    (axes,) = alternatives(own)
    for key in expand(axes, batch):
      if key == "*":
        continue
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


def _leaves(tree: Any, letters: Any) -> Iterator[tuple[jax.Array, str]]:
  """The arrays of a pytree with their letters, a prefix of it."""
  each = jax.tree.leaves(jax.tree.broadcast(letters, tree))
  return zip(jax.tree.leaves(tree), each, strict=True)


def place_like(x: jax.Array, other: jax.Array) -> jax.Array:
  """x, cut over Explicit axes as `other` of the same shape is."""
  if explicit_mesh((x, other)) is None:
    return x
  return jax.sharding.reshard(x, jax.typeof(other).sharding)


def _bind(cuts, argument, x, axes):
  """Notes over which mesh axes each letter is cut first."""
  spec = jax.typeof(x).sharding.spec
  for key, entry in zip(axes, spec, strict=False):
    over = entry if isinstance(entry, tuple) else (entry,) if entry else ()
    require(
      key != "L" or not over,
      f"{argument} must not have its length cut over the Explicit mesh axis "
      f"{', '.join(map(repr, over))}, got {spec}; cut it inside "
      "`jax.shard_map` and name the axis by axis_name, or reshard it",
    )
    if over and key is not None:
      cuts.setdefault(key, over)
