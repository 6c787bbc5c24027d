"""Sums of values that decay per channel, between the tokens of a chunk."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine.decay import Blocks, Ladder, PairDecay, ladder
from jaxmodels.ops.engine.segments import Masks


def decayed_values(
  q: jax.Array, k: jax.Array, v: jax.Array, decay: PairDecay, masks: Masks
) -> jax.Array:
  """`sum_j q_i . k_j v_jn exp(sum_{j<t<=i} log_decay_tn)`, for joined j <= i.

  Args:
    q: [C, K].
    k: [C, K].
    v: [C, V].
    decay: `pair_decay(log_decay)` of log decays [C, V] per value channel.
    masks: of the chunk.

  Returns:
    [C, V].
  """
  met = jnp.where(masks.pair, q @ k.T, 0)
  if isinstance(decay, Ladder):
    return _values_within(met, v, decay)
  if isinstance(decay, Blocks):
    return _values_of_blocks(met, v, decay)
  return (met if decay is None else met * decay) @ v


def _values_within(met, v, decay: Ladder):
  """Sums decayed values [C, V] of one block by their scores [C, C]."""
  size = v.shape[0]
  halves, _, _ = ladder(size)
  own = jnp.sum(jnp.where(np.eye(size, dtype=bool), met, 0), -1, keepdims=True)
  met = jnp.where(halves, met[None], 0)
  return jnp.sum((met @ (v[None] * decay.half)) * decay.half, axis=0) + own * v


def _values_of_blocks(met, v, decay: Blocks):
  """Sums decayed values [C, V] by scores [C, C] that are 0 for j > i."""
  size, (count, block, _) = v.shape[0], decay.start.shape
  met = met.reshape(count, block, count, block)
  same = np.eye(count, dtype=bool)[:, None, :, None]
  earlier = jnp.where(same, 0, met).reshape(count, block, size)
  y = (earlier @ (v[None] * decay.end)) * decay.start
  own = jnp.sum(jnp.where(same, met, 0), axis=2)
  within = jax.vmap(_values_within)
  y = y + within(own, v.reshape(count, block, -1), decay.within)
  return y.reshape(size, -1)
