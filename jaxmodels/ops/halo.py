"""What neighbours on a sharded sequence axis pass to one another.

Inside `shard_map` a sequence may be cut over a mesh axis: device i holds the
i-th piece. The local ops (short convolution, windowed attention) then need
only the end of the piece before their own. With `reverse` time runs from the
last device to the first.
"""

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["from_last", "from_previous", "gather", "rank", "reverse_ids"]


def rank(axis_name: str, reverse: bool) -> jax.Array:
  """The place of this device's piece in the order of time, from 0."""
  index = lax.axis_index(axis_name)
  return lax.axis_size(axis_name) - 1 - index if reverse else index


def from_previous(
  value: jax.Array, first: jax.Array, axis_name: str, reverse: bool
) -> jax.Array:
  """`value` of the device before this one in time; `first` on the first."""
  step = -1 if reverse else 1
  count = lax.axis_size(axis_name)
  # A whole ring: what the first device gets is dropped.
  ring = [(i, (i + step) % count) for i in range(count)]
  received = lax.ppermute(value, axis_name, ring)
  return jnp.where(rank(axis_name, reverse) == 0, first, received)


def from_last(value: jax.Array, axis_name: str, reverse: bool) -> jax.Array:
  """`value` of the device that is last in time, on every device."""
  last = rank(axis_name, reverse) == lax.axis_size(axis_name) - 1
  # A sum, not a gather: its result counts as replicated, so that it may
  # leave `shard_map` under an empty partition.
  return lax.psum(jnp.where(last, value, jnp.zeros_like(value)), axis_name)


def gather(
  value: jax.Array, axis: int, axis_name: str, reverse: bool
) -> jax.Array:
  """All pieces joined along `axis` (not negative) in the order of time.

  The result counts as equal on every device where there are such types:
  `shard_map` has them unless `check_vma=False`, and `vmap` has none. The two
  gathers differ in their gradients, so that each is wrong where the other
  belongs. The index of a device tells: with types it varies.
  """
  index = lax.axis_index(axis_name)
  typed = jax.typeof(index) != jax.typeof(jnp.zeros(index.shape, index.dtype))
  pieces = lax.all_gather(
    value, axis_name, axis=axis, to="invarying" if typed else "varying"
  )
  if reverse:
    pieces = jnp.flip(pieces, axis)
  shape = value.shape
  joined = pieces.shape[axis] * shape[axis]
  return pieces.reshape((*shape[:axis], joined, *shape[axis + 1 :]))


def reverse_ids(ids: jax.Array, axis_name: str | None = None) -> jax.Array:
  """Segment ids of the flipped sequence: they grow again, from 0.

  The last token's segment becomes segment 0, the one that the entering state
  belongs to.

  Args:
    ids: [..., L] integers that only grow along L.
    axis_name: The mesh axis that L is cut over, if it is.

  Returns:
    [..., L], of the same dtype.
  """
  last = ids[..., -1:]
  if axis_name is not None:
    last = lax.pmax(last, axis_name)
  return jnp.flip(last - ids, -1)
