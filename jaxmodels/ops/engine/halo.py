"""Communication between devices that hold shards of one sequence.

Inside `shard_map` a sequence may be sharded over a mesh axis: device i holds
shard i. The short convolution and windowed attention then need only the end of
the previous shard. With `reverse`, time runs from the last device to the first.
"""

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["from_last", "from_previous", "gather", "id_before", "rank"]


def rank(axis_name: str, reverse: bool) -> jax.Array:
  """The index of this device's shard in the order of time, from 0."""
  index = lax.axis_index(axis_name)
  return lax.axis_size(axis_name) - 1 - index if reverse else index


def from_previous(
  value: jax.Array, first: jax.Array, axis_name: str, reverse: bool
) -> jax.Array:
  """`value` of the previous device in time; on the first device, `first`."""
  step = -1 if reverse else 1
  count = lax.axis_size(axis_name)
  # A full ring. The first device drops the value that it receives.
  ring = [(i, (i + step) % count) for i in range(count)]
  received = lax.ppermute(value, axis_name, ring)
  return jnp.where(rank(axis_name, reverse) == 0, first, received)


def from_last(value: jax.Array, axis_name: str, reverse: bool) -> jax.Array:
  """The `value` of the last device in time, on every device."""
  last = rank(axis_name, reverse) == lax.axis_size(axis_name) - 1
  # A sum, not a gather: JAX types its result as replicated, so that `shard_map`
  # can return it under an empty partition spec.
  return lax.psum(jnp.where(last, value, jnp.zeros_like(value)), axis_name)


def gather(
  value: jax.Array, axis: int, axis_name: str, reverse: bool
) -> jax.Array:
  """Concatenates all shards along `axis` (not negative) in the order of time.

  `shard_map` types arrays as varying or not varying over a mesh axis, unless
  `check_vma=False`; `vmap` has no such types. With types, the result must be
  typed as not varying, by another gather. The two gathers have different
  gradients, so the wrong one gives wrong gradients. The type of
  `lax.axis_index`, which varies over the axis, shows whether there are types.
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

  The initial state has id 0, or with `reverse` the id of the last token.

  Args:
    ids: [..., L] in the order of time: flipped for `reverse`.
    axis_name: The mesh axis over which L is sharded, or None.
    reverse: Whether time runs from the last device to the first.

  Returns:
    [..., 1].
  """
  before = ids[..., :1] if reverse else jnp.zeros_like(ids[..., :1])
  if axis_name is None:
    return before
  return from_previous(ids[..., -1:], before, axis_name, reverse)
