"""Sequence parallelism: one all-gather of segments, whatever the length.

Every device of a mesh axis holds a shard of the sequence. It folds its shard
into one segment, all devices gather the segments of all (their size does not
depend on the sequence length), and each advances the entering state through
the segments before its own. This is LASP-2 (Sun et al. 2025,
arXiv:2502.07563) for every mixer that has segments.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree


def exchange(advance, segment, state, axis_name, reverse):
  """Finds the state that enters this device's shard.

  Args:
    advance: `(segment, state) -> state`.
    segment: what this device's whole shard does to a state.
    state: the state that enters the sequence, the same on every device.
    axis_name: the mesh axis over which the sequence is sharded.
    reverse: the sequence runs from the last device to the first.

  Returns:
    the state that enters the shard, and the one that leaves the sequence.
  """
  state = jax.tree.map(lambda x: _varying(x, axis_name), state)
  flat, unravel = ravel_pytree(segment)  # One array: one collective.
  gathered = lax.all_gather(flat, axis_name)
  if reverse:
    gathered = jnp.flip(gathered, 0)

  def body(state, flat):
    return advance(unravel(flat), state), state

  last, entering = lax.scan(body, state, gathered)
  mine = _position(axis_name, reverse)
  return jax.tree.map(lambda x: x[mine], entering), last


def id_before(ids, axis_name, reverse):
  """The id [B] of the token before this shard, for ids [B, L] in run order.

  The first shard is entered by the initial state: that has id 0, or in
  reverse the id of the token that it enters.
  """
  count = lax.axis_size(axis_name)
  step = -1 if reverse else 1
  ring = [(i, (i + step) % count) for i in range(count)]
  before = lax.ppermute(ids[:, -1], axis_name, ring)
  first = ids[:, 0] if reverse else jnp.zeros_like(before)
  return jnp.where(_position(axis_name, reverse) == 0, first, before)


def _position(axis_name, reverse):
  """This device's place in the order of the run."""
  index = lax.axis_index(axis_name)
  return lax.axis_size(axis_name) - 1 - index if reverse else index


def _varying(x, axis_name):
  """Marks x as one that may differ between the devices of the axis."""
  if axis_name in jax.typeof(x).vma:
    return x
  return lax.pcast(x, axis_name, to="varying")
