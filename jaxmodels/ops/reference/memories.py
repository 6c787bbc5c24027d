"""Definitions of log-linear attention, the Mesa layer and TTT-linear."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.log_linear import LogLinear
from jaxmodels.ops.mesa import Mesa
from jaxmodels.ops.reference.recurrences import (
  _matrix_state,
  _per_key,
  step_through,
)
from jaxmodels.ops.ttt import TTT


def ttt_linear(
  q, k, v, rate, weight, initial_state=None, *, norm_scale=None,
  norm_bias=None, norm_epsilon=1e-6, mini_batch=16, segment_ids=None,
  reverse=False,
):  # fmt: skip
  """Each token adds a gradient step at the start of its mini-batch."""

  def f(W, x):
    z = jnp.einsum("bhk,bhkv->bhv", x, W)
    if norm_scale is None:
      return z
    z = z - jnp.mean(z, -1, keepdims=True)
    variance = jnp.mean(z**2, -1, keepdims=True)
    y = norm_scale[None] * z / jnp.sqrt(variance + norm_epsilon)
    return y if norm_bias is None else y + norm_bias[None]

  def step(state, token):
    q, k, v, rate = token
    change, taken, count = state
    count = lax.stop_gradient(count)
    W = weight[None] + change
    slope = jax.grad(lambda W: jnp.sum((f(W, k) - v) ** 2) / 2)(W)
    taken = taken + rate[..., None, None] * slope
    y = f(W - taken, q)
    full = count + 1 == mini_batch
    at = full[..., None, None]
    change = jnp.where(at, change - taken, change)
    taken = jnp.where(at, 0, taken)
    return (change, taken, jnp.where(full, 0, count + 1)), y

  if initial_state is None:
    S = _matrix_state(None, k, v)
    initial_state = S, S, S[..., 0, 0]
  y, state = step_through(
    step, tuple(initial_state), (q, k, v, rate), segment_ids, reverse
  )
  return y, TTT(*state)


def mesa(
  q, k, v, beta, log_decay=None, initial_state=None, *, segment_ids=None,
  reverse=False,
):  # fmt: skip
  """`y_t = G_t^T (H_t + I)^-1 q_t`, by a direct solve."""

  def step(state, token):
    q, k, v, beta, log_decay = token
    write = jnp.exp(log_decay), (beta[..., None] * k)[..., None]
    H, G = (
      write[0][..., :1, None] * S + write[1] * x[..., None, :]
      for S, x in zip(state, (k, v), strict=True)
    )
    A = H + jnp.eye(k.shape[-1], dtype=k.dtype)[None, None]
    x = jnp.linalg.solve(A, q[..., None])[..., 0]
    return (H, G), jnp.einsum("bhk,bhkv->bhv", x, G)

  if initial_state is None:
    initial_state = _matrix_state(None, k, k), _matrix_state(None, k, v)
  tokens = q, k, v, beta, _per_key(log_decay, k)
  y, state = step_through(
    step, tuple(initial_state), tokens, segment_ids, reverse
  )
  return y, Mesa(*state)


def log_linear_attention(
  q, k, v, scale, log_decay=None, initial_state=None, *, beta=None,
  segment_ids=None, reverse=False,
):  # fmt: skip
  """One state per bit of the number of tokens; tokens are added like 1.

  Token t reads its own write by scale_0 and state b by scale_{b+1}. Then its
  write and the states below the lowest 0 of t, as a binary number, become the
  state of this bit, as carries do. At the last bit they are added up.
  """
  count = scale.shape[-1] - 1
  if initial_state is None:
    S = _matrix_state(None, k, v)[:, :, None]
    initial_state = jnp.repeat(S, count, 2), jnp.zeros(k.shape[:1], jnp.int32)

  def step(state, token):
    S, t = state
    q, k, v, scale, beta, log_decay = token
    S = jnp.exp(log_decay)[:, :, None, :, None] * S
    if beta is None:
      beta = jnp.ones_like(k[..., 0])
    else:
      old = jnp.einsum("bhk,bhnkv->bhnv", k, S)
      old = beta[..., None, None] * old
      S = S - k[:, :, None, :, None] * old[:, :, :, None]
    own = (beta[..., None] * k)[..., None] * v[..., None, :]
    everything = jnp.concatenate([own[:, :, None], S], 2)
    y = jnp.einsum("bhn,bhk,bhnkv->bhv", scale, q, everything)
    full = ((t + 1) % 2**b == 0 for b in range(1, count))
    bit = sum((x.astype(t.dtype) for x in full), 0 * t)
    bit = bit.reshape(-1, 1, 1, 1, 1)
    place = jnp.arange(count, dtype=t.dtype).reshape(1, 1, -1, 1, 1)
    carried = own[:, :, None] + jnp.sum(
      jnp.where(place < bit, S, 0), 2, keepdims=True
    )
    S = jnp.where(place < bit, 0, S) + jnp.where(place == bit, carried, 0)
    return (S, t + 1), y

  tokens = q, k, v, scale, beta, _per_key(log_decay, k)
  y, state = step_through(
    step, tuple(initial_state), tokens, segment_ids, reverse
  )
  return y, LogLinear(*state)
