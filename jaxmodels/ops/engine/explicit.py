"""Ops on arrays that carry their sharding in their type.

The axes of `jax.make_mesh` are Explicit by default: the type of an array holds
its sharding, and each primitive must know the sharding of its result. A
recurrence would need an annotation at every product, reshape and loop. So an op
runs with these axes as Auto, the compiler shards the values inside, and the
results get the shardings that the op's letters imply.
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

  None if there are no Explicit axes: on one device, under Auto axes, and inside
  a `shard_map` over all axes.
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
  """Decorates an op, so that it takes arrays sharded over Explicit axes.

  Letters are those of `jaxmodels.ops.engine.checks`. The first argument that is
  sharded along a letter decides how results are sharded along it. The length,
  L, must not be sharded.

  Args:
    returns: the letters of the result: a string, or a pytree of strings that
      is a prefix of it.
    **letters: in the same form, the letters of every argument that holds
      arrays. `segment_ids` has "... L" by default.
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
  """Runs `function(arrays)` with Explicit axes as Auto; letters place results.

  Args:
    name: the op, for messages.
    function: takes the arrays by name, and nothing else.
    arrays: arrays, pytrees of arrays or None, by name.
    letters: of each array, as for `by_letters`.
    returns: letters of the result.
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
    if axes is not None:  # The op itself reports a wrong rank.
      _bind(cuts, f"{name}: {argument}", x, axes)

  def sharding(own):
    used: list[str] = []  # A mesh axis shards at most one axis of an array.
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
  """The arrays of a pytree with their letters, which are a prefix of it."""
  each = jax.tree.leaves(jax.tree.broadcast(letters, tree))
  return zip(jax.tree.leaves(tree), each, strict=True)


def place_like(x: jax.Array, other: jax.Array) -> jax.Array:
  """x, sharded over Explicit axes like `other`, which has the same shape."""
  if explicit_mesh((x, other)) is None:
    return x
  return jax.sharding.reshard(x, jax.typeof(other).sharding)


def _bind(cuts, argument, x, axes):
  """Records the first mesh axes over which each letter is sharded."""
  spec = jax.typeof(x).sharding.spec
  for key, entry in zip(axes, spec, strict=False):
    over = entry if isinstance(entry, tuple) else (entry,) if entry else ()
    require(
      key != "L" or not over,
      f"{argument} must not have its length sharded over the Explicit mesh "
      f"axis {', '.join(map(repr, over))}, got {spec}; shard it inside "
      "`jax.shard_map` and name the axis by axis_name, or reshard it",
    )
    if over and key is not None:
      cuts.setdefault(key, over)
