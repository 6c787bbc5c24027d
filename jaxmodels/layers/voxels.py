"""Occupied voxels of point clouds, their windows and their neighbours.

A cube of `side`^3 voxels covers [-1, 1]^3. Voxel (i, j, k) along x, y and z has
the number (i side + j) side + k. Only occupied voxels are kept, in a list
[B, V] of ascending numbers, whose end is filled with `side`^3: no voxel.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks

__all__ = ["neighbor_slots", "occupied", "voxel_numbers", "window_order"]


def voxel_numbers(points: jax.Array, side: int) -> jax.Array:
  """The numbers [B, N] of the voxels of points [B, N, 3].

  Points outside of the cube are in the voxels at its border.
  """
  checks.shape("voxel_numbers", "points", points, (None, None, 3), "[B, N, 3]")
  places = jnp.floor((points + 1) * (side / 2)).astype(jnp.int32)
  i, j, k = jnp.moveaxis(jnp.clip(places, 0, side - 1), -1, 0)
  return (i * side + j) * side + k


def occupied(numbers: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
  """The list of occupied voxels, and the slot of each point in it.

  Args:
    numbers: The voxels of the points, [B, N].
    side: The number of voxels along a side of the cube.

  Returns:
    The voxels [B, V] with V = min(N, side^3), so that every voxel has room, and
    the slots [B, N].
  """
  size = min(numbers.shape[1], side**3)

  def one(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    ordered = jnp.sort(numbers)
    new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    rank = jnp.cumsum(new.astype(jnp.int32)) - 1
    voxels = jnp.full(size, side**3, jnp.int32).at[rank].set(ordered)
    return voxels, jnp.searchsorted(voxels, numbers).astype(jnp.int32)

  return jax.vmap(one)(numbers)


def window_order(
  voxels: jax.Array, side: int, window: int, axis: int
) -> jax.Array:
  """The order of voxels, window by window, along x or along y.

  The cube is cut into windows of `window`^3 voxels. With `axis` 0 the order is
  that of the rows of windows along x, then y, then z, and the same inside each
  window, so x varies the slowest. With `axis` 1, x and y are exchanged.

  Args:
    voxels: [B, V], as of `occupied`.
    side: The number of voxels along a side of the cube.
    window: The number of voxels along a side of a window.
    axis: 0 for x, or 1 for y.

  Returns:
    A permutation [B, V] of the slots; empty slots are at the end.
  """
  checks.require(
    axis in (0, 1), f"window_order: axis must be 0 or 1, got {axis}"
  )
  # Any size: a window at the border may reach beyond the cube.
  count = -(-side // window)
  i, j, k = np.unravel_index(np.arange(side**3), (side,) * 3)
  first, second = (i, j) if axis == 0 else (j, i)
  places = (first, second, k)
  key = np.ravel_multi_index(
    [p // window for p in places] + [p % window for p in places],
    (count,) * 3 + (window,) * 3,
  )
  # The rank of every voxel of the cube, and the last one for no voxel.
  rank = np.append(np.argsort(np.argsort(key)), side**3).astype(np.int32)
  return jnp.argsort(jnp.asarray(rank)[voxels], axis=1).astype(jnp.int32)


def neighbor_slots(voxels: jax.Array, side: int) -> jax.Array:
  """The slots [B, V, 27] of the 3 x 3 x 3 voxels around each voxel.

  The place (a + 1) 9 + (b + 1) 3 + (c + 1) is the voxel at the distance
  (a, b, c). It is V where that voxel is empty or outside of the cube, and
  everywhere for an empty slot.
  """
  size = voxels.shape[1]
  table = np.full((side**3 + 1, 27), side**3, np.int32)
  places = np.stack(np.unravel_index(np.arange(side**3), (side,) * 3), -1)
  for n, offset in enumerate(itertools.product((-1, 0, 1), repeat=3)):
    moved = places + offset
    inside = np.all((moved >= 0) & (moved < side), -1)
    table[:-1][inside, n] = np.ravel_multi_index(moved[inside].T, (side,) * 3)

  def one(voxels: jax.Array) -> jax.Array:
    slots = jnp.full(side**3 + 1, size, jnp.int32)
    slots = slots.at[voxels].set(jnp.arange(size, dtype=jnp.int32))
    # Empty slots have written there too.
    slots = slots.at[side**3].set(size)
    return slots[jnp.asarray(table)[voxels]]

  return jax.vmap(one)(voxels)


def mean_by_slot(x: jax.Array, slots: jax.Array, size: int) -> jax.Array:
  """The means [B, V, C] of the rows of x [B, N, C] in each of V slots."""

  def one(x: jax.Array, slots: jax.Array) -> jax.Array:
    total = jnp.zeros((size, x.shape[1]), x.dtype).at[slots].add(x)
    count = jnp.zeros((size, 1), x.dtype).at[slots].add(1)
    return total / lax.max(count, jnp.ones_like(count))

  return jax.vmap(one)(x, slots)
