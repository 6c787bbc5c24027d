"""Products of a state with decayed keys, which several heads may share.

One decay for all keys [C, 1] scales values instead of keys. Keys and queries
that heads share are then the same for all of them, so that the heads' values
are columns of one product, and no head has a scaled copy of the keys.
"""

import jax


def recall(q: jax.Array, decay: jax.Array, state: jax.Array) -> jax.Array:
  """`(q * decay) @ state` [C, V].

  Args:
    q: [C, K].
    decay: [C, K] or [C, 1], such as `Decay.entry`.
    state: [K, V].
  """
  if decay.shape[1] == 1:
    return decay * (q @ state)
  return (q * decay) @ state


def write(k: jax.Array, decay: jax.Array, v: jax.Array) -> jax.Array:
  """`(k * decay)^T v` [K, V].

  Args:
    k: [C, K].
    decay: [C, K] or [C, 1], such as `Decay.exit`.
    v: [C, V].
  """
  if decay.shape[1] == 1:
    return k.T @ (decay * v)
  return (k * decay).T @ v
