"""What neighbouring devices exchange when a sequence is sharded.

Inside `shard_map` a sequence may be sharded over a mesh axis: device i holds
the i-th shard. Local ops (short convolution, windowed attention) then need only
the end of the shard before their own. With `reverse` time runs from the last
device to the first.
"""

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["from_last", "from_previous", "gather", "id_before", "rank"]


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

  `shard_map` tracks which arrays are equal on every device, unless
  `check_vma=False`; `vmap` does not. Where arrays are tracked, the result counts
  as equal on every device. The gradients of the two kinds of gather differ, so
  that each is wrong in place of the other. Whether the index of a device counts
  as varying tells which kind is needed.
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


def id_before(
  ids: jax.Array, axis_name: str | None, reverse: bool
) -> jax.Array:
  """The segment id before this device's first token.

  The state that enters the sequence has id 0, and in reverse the id of the
  last token, at which it enters.

  Args:
    ids: [..., L] in the order of time: flipped for `reverse`.
    axis_name: The mesh axis that L is cut over, if it is.
    reverse: Whether time runs from the last device to the first.

  Returns:
    [..., 1].
  """
  before = ids[..., :1] if reverse else jnp.zeros_like(ids[..., :1])
  if axis_name is None:
    return before
  return from_previous(ids[..., -1:], before, axis_name, reverse)
