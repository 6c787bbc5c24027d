"""Sequence parallelism: one all-gather of summaries, for any length.

Every device of a mesh axis holds a shard of the sequence. Each device folds its
shard into one summary, whose size does not depend on the length. All devices
gather all summaries, and each advances the initial state through the summaries
of the shards before its own. This is LASP-2 (Sun et al. 2025, arXiv:2502.07563)
for every family that has summaries.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxmodels.ops.engine import halo


def exchange(advance, summary, state, axis_name, reverse):
  """Finds the state before this device's shard.

  The first device sends the state after its shard in place of the update of its
  summary. So the other devices need neither an empty state nor the initial
  state, and nothing more is sent.

  The gathered summaries, and so the final state, are typed as the same on every
  device: `shard_map` can return them under an empty partition spec.

  Args:
    advance: `(summary, state) -> state`.
    summary: the summary of this device's shard; its update is a pytree like the
      state.
    state: the state before the sequence; only the first device's is used.
    axis_name: the mesh axis over which the sequence is sharded.
    reverse: whether the sequence runs from the last device to the first.

  Returns:
    the state before this device's shard, and the state after the sequence.
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
