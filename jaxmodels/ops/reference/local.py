"""Step-by-step definitions of convolution and attention, for tests.

They are plain loops over tokens. The dtype is that of the arguments: use
float64 inputs under `jax.enable_x64`.
"""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["attention", "causal_convolution"]


def causal_convolution(
  x: jax.Array,
  kernel: jax.Array,
  initial_state: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """y_t = sum_j kernel[W - 1 - j] x_{t-j}, one batch entry, token by token.

  Args:
    x: [L, D].
    kernel: [W, D].
    initial_state: [W - 1, D] or None.
    segment_ids: [L] concrete integers or None.

  Returns:
    y: [L, D] and the state [W - 1, D].
  """
  width, channels = kernel.shape
  zero = jnp.zeros((channels,), x.dtype)
  past = [zero] * (width - 1) if initial_state is None else [*initial_state]
  before, outputs = 0, []
  for t in range(x.shape[0]):
    own = 0 if segment_ids is None else int(segment_ids[t])
    if own != before:
      past = [zero] * (width - 1)
    before = own
    window = [*past, x[t]]
    outputs.append(sum(kernel[j] * window[j] for j in range(width)))
    past = window[1:]
  y = jnp.stack(outputs) if outputs else jnp.zeros_like(x)
  state = jnp.stack(past) if past else jnp.zeros((0, channels), x.dtype)
  return y, state


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  window: int | None = None,
  initial_keys: jax.Array | None = None,
  initial_values: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
  softcap: float | None = None,
  sinks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Softmax attention of one batch entry, query by query.

  Args:
    q: [L, Hq, K].
    k: [L, Hkv, K].
    v: [L, Hkv, V].
    window: The number of tokens that a query sees, its own included; None for
      all.
    initial_keys: [M, Hkv, K], all of them live, or None.
    initial_values: [M, Hkv, V], or None.
    segment_ids: [L] concrete integers or None.
    softcap: c of c tanh(score / c), or None.
    sinks: [Hq], the score of a key without a value, or None.

  Returns:
    y: [L, Hq, V], and the keys and values in the segment of the last token,
    oldest first (at most window - 1 of them).
  """
  past = 0 if initial_keys is None else initial_keys.shape[0]
  keys = k if initial_keys is None else jnp.concatenate([initial_keys, k])
  values = v if initial_values is None else jnp.concatenate([initial_values, v])
  group = q.shape[1] // k.shape[1]
  places = np.arange(keys.shape[0])
  first, before, outputs = 0, 0, []
  for t in range(q.shape[0]):
    own = 0 if segment_ids is None else int(segment_ids[t])
    if own != before:
      first = past + t
    before = own
    if window is not None:
      first = max(first, past + t + 1 - window)
    visible = ((first <= places) & (places <= past + t))[:, None]
    # Query head h reads key head h // group.
    scores = jnp.einsum("hk,shk->sh", q[t], jnp.repeat(keys, group, 1))
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible, scores, -jnp.inf)
    weights = jnp.exp(scores - jnp.max(scores, 0, keepdims=True))
    total = jnp.sum(weights, 0, keepdims=True)
    if sinks is not None:
      total = total + jnp.exp(sinks[None] - jnp.max(scores, 0, keepdims=True))
    weights = weights / total
    told = jnp.repeat(values, group, 1)
    outputs.append(jnp.einsum("sh,shv->hv", weights, told))
  if window is not None:
    first = max(first, past + q.shape[0] - (window - 1))
  return jnp.stack(outputs), keys[first:], values[first:]
