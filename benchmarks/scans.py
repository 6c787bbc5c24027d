"""The recurrences as a user would write them, as plain `lax.scan`s.

The ops are timed against these functions. They have no packing, no remat and no
chunks; tokens are [B, L, ...] and the state is in float32.

`jaxmodels.ops.reference` also takes segment ids, which cost time and memory. On
a CPU in float32, for B = 2, L = 2048, H = 4 and K = V = 64, its delta rule
needs 16.3 MiB of temporary arrays, against 12.4 here. With gradients it needs
877 MiB against 797, and 1.1 times the CPU time. Its selective scan needs the
same for values, and 237 MiB against 213 with gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def _scan(step: Callable, state: Any, *tokens: jax.Array) -> tuple[Any, Any]:
  """Runs `step(state, *token) -> (state, y)` over axis 1."""

  def body(state, token):
    return step(state, *(x.astype(jnp.float32) for x in token))

  state, y = lax.scan(body, state, [jnp.moveaxis(x, 1, 0) for x in tokens])
  return jnp.moveaxis(y, 0, 1).astype(tokens[-1].dtype), state


def _matrix(k: jax.Array, v: jax.Array) -> jax.Array:
  """A zero state [B, H, K, V]."""
  batch, _, heads, width = k.shape
  return jnp.zeros((batch, heads, width, v.shape[-1]), jnp.float32)


def _per_key(log_decay: jax.Array | None, k: jax.Array) -> jax.Array:
  """A log decay [B, L, H, K or 1]."""
  if log_decay is None:
    return jnp.zeros((*k.shape[:-1], 1), k.dtype)
  return log_decay if log_decay.ndim == k.ndim else log_decay[..., None]


def _read(q: jax.Array, S: jax.Array) -> jax.Array:
  return jnp.einsum("bhk,bhkv->bhv", q, S)


def linear_attention(q, k, v, log_decay=None, bonus=None, value_log_decay=None):
  """`S_t = decay_t S_{t-1} + k_t v_t^T`; with a bonus, q reads `S_{t-1}`."""
  if value_log_decay is not None:
    return _decayed_by_value(q, k, v, value_log_decay)

  def step(S, g, q, k, v):
    write = k[..., :, None] * v[..., None, :]
    before, S = S, jnp.exp(g)[..., None] * S + write
    if bonus is None:
      return S, _read(q, S)
    own = bonus.astype(jnp.float32)[None, :, :, None] * write
    return S, _read(q, before + own)

  return _scan(step, _matrix(k, v), _per_key(log_decay, k), q, k, v)


def _decayed_by_value(q, k, v, log_decay):
  """`S_t = S_{t-1} diag(decay_t) + k_t v_t^T`, read by q."""

  def step(S, g, q, k, v):
    S = jnp.exp(g)[..., None, :] * S + k[..., :, None] * v[..., None, :]
    return S, _read(q, S)

  return _scan(step, _matrix(k, v), log_decay, q, k, v)


def delta_rule(q, k, v, beta, log_decay=None, write_gate=None):
  """`S_t = (I - beta k k^T) decay_t S_{t-1} + beta k v^T`, read by q."""
  if write_gate is not None:
    return _gated_delta_rule(q, k, v, beta, log_decay, write_gate)

  def step(S, g, beta, q, k, v):
    S = jnp.exp(g)[..., None] * S
    u = beta[..., None] * (v - _read(k, S))
    S = S + k[..., :, None] * u[..., None, :]
    return S, _read(q, S)

  return _scan(step, _matrix(k, v), _per_key(log_decay, k), beta, q, k, v)


def _gated_delta_rule(q, k, v, b, log_decay, w):
  """`S_t = (I - k (b k)^T) decay_t S_{t-1} + k (w v)^T`, read by q."""

  def step(S, g, b, w, q, k, v):
    S = jnp.exp(g)[..., None] * S
    u = w * v - _read(b * k, S)
    S = S + k[..., :, None] * u[..., None, :]
    return S, _read(q, S)

  return _scan(step, _matrix(k, v), _per_key(log_decay, k), b, w, q, k, v)


def dplr_recurrence(q, k, v, a, b, log_decay=None):
  """`S_t = (diag(decay_t) + a b^T) S_{t-1} + k v^T`, read by q."""

  def step(S, g, a, b, q, k, v):
    read = _read(b, S)
    S = jnp.exp(g)[..., None] * S + a[..., :, None] * read[..., None, :]
    S = S + k[..., :, None] * v[..., None, :]
    return S, _read(q, S)

  return _scan(step, _matrix(k, v), _per_key(log_decay, k), a, b, q, k, v)


def householder_product(q, k, v, beta, log_decay=None):
  """M delta steps per token, the decay before the first: k [B, L, M, H, K]."""

  def step(S, g, beta, q, k, v):
    S = jnp.exp(g)[..., None] * S
    for m in range(k.shape[1]):
      u = beta[:, m, :, None] * (v[:, m] - _read(k[:, m], S))
      S = S + k[:, m, :, :, None] * u[..., None, :]
    return S, _read(q, S)

  state = _matrix(k[:, :, 0], v[:, :, 0])
  return _scan(step, state, _per_key(log_decay, q), beta, q, k, v)


def normalized_linear_attention(
  q, k, v, log_input_gate, log_forget_gate, floor=1.0
):
  """The mLSTM, with its running maximum; the state is `e^m (S, z)`."""

  def step(state, log_i, log_f, q, k, v):
    S, z, m = state
    new = jnp.maximum(log_f + m, log_i)
    keep, write = jnp.exp(log_f + m - new), jnp.exp(log_i - new)
    k = k * write[..., None]
    S = keep[..., None, None] * S + k[..., :, None] * v[..., None, :]
    z = keep[..., None] * z + k
    total = jnp.abs(jnp.sum(z * q, -1))
    y = _read(q, S) / jnp.maximum(total, floor * jnp.exp(-new))[..., None]
    return (S, z, new), y

  S = _matrix(k, v)
  state = (S, S[..., 0], jnp.full(S.shape[:2], -1e30))
  return _scan(step, state, log_input_gate, log_forget_gate, q, k, v)


def diagonal_recurrence(a, b):
  """`h_t = a_t * h_{t-1} + b_t`."""

  def step(h, a, b):
    h = a * h + b
    return h, h

  return _scan(step, jnp.zeros(b.shape[:1] + b.shape[2:]), a, b)


def selective_scan(x, dt, A, B, C, D):
  """Mamba's recurrence."""
  A, D = A.astype(jnp.float32), D.astype(jnp.float32)

  def step(h, dt, B, C, x):
    write = (dt * x)[..., None] * B[:, None, :]
    h = jnp.exp(dt[..., None] * A[None]) * h + write
    return h, jnp.sum(h * C[:, None, :], -1) + D[None] * x

  return _scan(step, jnp.zeros((x.shape[0], *A.shape)), dt, B, C, x)


def dense_recurrence(A, b):
  """`h_t = A_t h_{t-1} + b_t`, for blocks [B, L, G, M, M]."""

  def step(h, A, b):
    h = jnp.einsum("bgij,bgj->bgi", A, h) + b
    return h, h

  return _scan(step, jnp.zeros((b.shape[0], *b.shape[2:])), A, b)


def causal_convolution(x, kernel):
  """Runs token by token, with the last W inputs as the state."""
  kernel = kernel.astype(jnp.float32)
  width = kernel.shape[0]

  def step(tail, x):
    span = jnp.concatenate([tail, x[:, None]], 1)
    return span[:, 1:], jnp.sum(span * kernel[None], 1)

  return _scan(step, jnp.zeros((x.shape[0], width - 1, x.shape[2])), x)
