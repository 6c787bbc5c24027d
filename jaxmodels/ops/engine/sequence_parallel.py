"""Sequence parallelism: one all-gather of summaries, whatever the length.

Every device of a mesh axis holds a shard of the sequence. It folds its shard
into one summary, all devices gather the summaries of all (their size does not
depend on the sequence length), and each advances the entering state through
the summaries before its own. This is LASP-2 (Sun et al. 2025,
arXiv:2502.07563) for every mixer that has summaries.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxmodels.ops.engine import halo


def exchange(advance, summary, state, axis_name, reverse):
  """Finds the state that enters this device's shard.

  The first device puts the entering state into what it tells the others: in
  place of its summary's update goes the state that leaves its shard. So no
  empty state is needed to start from, and nothing more is sent.

  What is gathered counts as equal on every device, and so does the state
  that leaves the sequence: `shard_map` lets it out under an empty partition.

  Args:
    advance: `(summary, state) -> state`.
    summary: what this device's whole shard does to a state; its update is a
      pytree like the state.
    state: the state that enters the sequence; the first device's counts.
    axis_name: the mesh axis over which the sequence is sharded.
    reverse: the sequence runs from the last device to the first.

  Returns:
    the state that enters the shard, and the one that leaves the sequence.
  """
  mine = halo.rank(axis_name, reverse)
  told = summary._replace(
    update=_choose(mine == 0, advance(summary, state), summary.update)
  )
  flat, unravel = ravel_pytree(told)  # One array: one collective.
  gathered = halo.gather(flat[None], 0, axis_name, reverse)

  def body(state, flat):
    state = advance(unravel(flat), state)
    return state, state

  first = unravel(gathered[0]).update
  last, rest = lax.scan(body, first, gathered[1:])
  leaving = jax.tree.map(
    lambda x, xs: jnp.concatenate([x[None], xs]), first, rest
  )
  before = jax.tree.map(lambda x: x[jnp.maximum(mine - 1, 0)], leaving)
  return _choose(mine == 0, state, before), last


def _choose(condition, chosen, other):
  """`jnp.where` on pytrees."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), chosen, other)
