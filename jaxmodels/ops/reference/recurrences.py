"""Definitions: every recurrence step by step, exactly as in its equation.

All tests compare with these. There are no chunks and no sums of logarithms. The
dtype is that of the arguments, so float64 arguments give float64 results. The
arguments are those of the ops. These functions are too slow for training.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.normalized import Normalized


def step_through(
  step: Callable[[Any, Any], tuple[Any, Any]],
  state: Any,
  tokens: Any,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  empty: Any = 0,
) -> tuple[Any, Any]:
  """Runs `step(state, token) -> (state, y)` over tokens [B, L, ...].

  Args:
    step: one step on a whole batch, state [B, ...], token [B, ...].
    state: the initial state; it has segment id 0.
    tokens: pytree of [B, L, ...].
    segment_ids: [B, L] or None; the state is reset where the id changes.
    reverse: whether to run from the last token to the first; the initial state
      then has the last token's id.
    empty: the value of a reset state, a scalar for all leaves or a pytree of
      scalars like the state.

  Returns:
    y [B, L, ...] and the final state.
  """
  if segment_ids is None:
    length = jax.tree.leaves(tokens)[0].shape[1]
    batch = jax.tree.leaves(tokens)[0].shape[0]
    segment_ids = jnp.zeros((batch, length), jnp.int32)
  entering_id = segment_ids[:, -1] if reverse else 0 * segment_ids[:, 0]

  def body(carry, inputs):
    state, last_id = carry
    token, token_id = inputs
    keep = token_id == last_id
    state = jax.tree.map(
      lambda s, e: jnp.where(keep.reshape(-1, *[1] * (s.ndim - 1)), s, e),
      state,
      jax.tree.broadcast(empty, state),
    )
    state, y = step(state, token)
    return (state, token_id), y

  time_first = jax.tree.map(
    lambda x: jnp.moveaxis(x, 1, 0), (tokens, segment_ids)
  )
  (state, _), y = lax.scan(
    body, (state, entering_id), time_first, reverse=reverse
  )
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), y), state


def linear_attention(
  q, k, v, log_decay=None, initial_state=None, *, bonus=None, decay_sign=None,
  value_log_decay=None, segment_ids=None, reverse=False,
):  # fmt: skip
  """`S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T; y_t = S_t^T q_t`.

  With a bonus `y_t = (S_{t-1} + diag(bonus) k_t v_t^T)^T q_t`. With signs the
  decay is `decay_sign_t exp(log_decay_t)`. With decays of values
  `S_t = S_{t-1} diag(exp(value_log_decay_t)) + k_t v_t^T`.
  """

  def step(S, token):
    q, k, v, log_decay, sign, of_values = token
    write = k[..., :, None] * v[..., None, :]
    S = S * jnp.exp(of_values)[..., None, :]
    before, S = S, (sign * jnp.exp(log_decay))[..., None] * S + write
    read = S if bonus is None else before + bonus[None, :, :, None] * write
    return S, jnp.einsum("bhk,bhkv->bhv", q, read)

  if decay_sign is None:
    sign = jnp.ones_like(k)
  else:
    sign = lax.stop_gradient(_per_key(decay_sign, k))
  of_values = _per_key(value_log_decay, v)
  tokens = q, k, v, _per_key(log_decay, k), sign, of_values
  state = _matrix_state(initial_state, k, v)
  return step_through(step, state, tokens, segment_ids, reverse)


def delta_rule(
  q, k, v, beta, log_decay=None, initial_state=None, *, write_gate=None,
  segment_ids=None, reverse=False,
):  # fmt: skip
  """`S_t = (I - k (b k)^T) decay_t S_{t-1} + k (w v)^T; y_t = S_t^T q_t`.

  b is beta, and w is the write gate, or beta if there is none.
  """

  def step(S, token):
    q, k, v, b, w, log_decay = token
    S = jnp.exp(log_decay)[..., None] * S
    erased = jnp.einsum("bhk,bhkv->bhv", b * k, S)
    S = S + k[..., :, None] * (w * v - erased)[..., None, :]
    return S, jnp.einsum("bhk,bhkv->bhv", q, S)

  if beta.ndim < k.ndim:
    beta = beta[..., None]
  write_gate = beta if write_gate is None else write_gate
  tokens = q, k, v, beta, write_gate, _per_key(log_decay, k)
  state = _matrix_state(initial_state, k, v)
  return step_through(step, state, tokens, segment_ids, reverse)


def diagonal_recurrence(
  a, b, initial_state=None, *, segment_ids=None, reverse=False
):
  """`h_t = a_t * h_{t-1} + b_t`; y is every state. No a is an a of 1."""

  def step(h, token):
    a, b = token
    h = h + b if a is None else a * h + b
    return h, h

  if initial_state is None:
    initial_state = jnp.zeros_like(b[:, 0])
  return step_through(step, initial_state, (a, b), segment_ids, reverse)


def selective_scan(
  x, dt, A, B, C, D=None, initial_state=None, *, negative_eigenvalues=False,
  segment_ids=None, reverse=False,
):  # fmt: skip
  """`h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t; y_t = C_t h_t + D x_t`.

  With negative eigenvalues the factor is `2 exp(dt_t A) - 1`.
  """

  def step(h, token):
    x, dt, B, C = token
    a = jnp.exp(dt[..., None] * A[None])
    h = (2 * a - 1 if negative_eigenvalues else a) * h
    h = h + (dt * x)[..., None] * B[:, None, :]
    return h, jnp.einsum("bdn,bn->bd", h, C)

  if initial_state is None:
    initial_state = jnp.zeros((x.shape[0], *A.shape), x.dtype)
  tokens = x, dt, B, C
  y, state = step_through(step, initial_state, tokens, segment_ids, reverse)
  return y if D is None else y + D[None, None] * x, state


def state_space(
  x, A, B, C, initial_state=None, *, segment_ids=None, reverse=False
):
  """`h_t = A h_{t-1} + B x_t; y_t = Re(C . h_t)`, per channel."""

  def step(h, x):
    letters = "di,bdi->bdi" if A.ndim == 2 else "dij,bdj->bdi"
    write = B[None] * x[..., None].astype(B.dtype)
    h = jnp.einsum(letters, A, h) + write
    return h, jnp.real(jnp.sum(C[None] * h, -1))

  if initial_state is None:
    dtype = jnp.result_type(A, B, C)
    initial_state = jnp.zeros((x.shape[0], *B.shape), dtype)
  return step_through(step, initial_state, x, segment_ids, reverse)


def dplr_recurrence(
  q, k, v, a, b, log_decay, initial_state=None, *, segment_ids=None,
  reverse=False,
):  # fmt: skip
  """`S_t = (diag(exp(log_decay_t)) + a_t b_t^T) S_{t-1} + k_t v_t^T`."""

  def step(S, token):
    q, k, v, a, b, log_decay = token
    u = jnp.einsum("bhk,bhkv->bhv", b, S)
    S = jnp.exp(log_decay)[..., None] * S + a[..., :, None] * u[..., None, :]
    S = S + k[..., :, None] * v[..., None, :]
    return S, jnp.einsum("bhk,bhkv->bhv", q, S)

  tokens = q, k, v, a, b, _per_key(log_decay, k)
  state = _matrix_state(initial_state, k, v)
  return step_through(step, state, tokens, segment_ids, reverse)


def dense_recurrence(
  A, b, initial_state=None, *, block_diagonal=False, segment_ids=None,
  reverse=False,
):  # fmt: skip
  """`h_t = A_t h_{t-1} + b_t`; y is every state."""
  del block_diagonal  # The shapes of A and b suffice.

  def step(h, token):
    A, b = token
    h = jnp.einsum("...ij,...j->...i", A, h) + b
    return h, h

  if initial_state is None:
    initial_state = jnp.zeros_like(b[:, 0])
  return step_through(step, initial_state, (A, b), segment_ids, reverse)


def signature(
  dx, initial_state=None, *, depth=3, segment_ids=None, reverse=False
):
  """Level n is `sum_{k <= n} S_k (x) dx^(x n - k) / (n - k)!`; S_0 is 1."""
  batch, _, D = dx.shape
  sizes = [D**n for n in range(1, depth + 1)]

  def step(state, token):
    (z,) = token
    parts = jnp.split(state, np.cumsum(sizes)[:-1], axis=1)
    before = [jnp.ones_like(z[:, :1]), *parts]
    power, powers = before[0], [before[0]]
    for n in range(1, depth + 1):
      power = jnp.einsum("bi,bj->bij", power, z / n).reshape(batch, -1)
      powers.append(power)  # z^(x n) / n!
    after = [
      sum(
        jnp.einsum("bi,bj->bij", before[k], powers[n - k]).reshape(batch, -1)
        for k in range(n + 1)
      )
      for n in range(1, depth + 1)
    ]
    state = jnp.concatenate(after, 1)
    return state, state

  if initial_state is None:
    initial_state = jnp.zeros((batch, sum(sizes)), dx.dtype)
  return step_through(step, initial_state, (dx,), segment_ids, reverse)


def householder_product(
  q, k, v, beta, log_decay=None, initial_state=None, *, segment_ids=None,
  reverse=False,
):  # fmt: skip
  """One decay, then M steps `S += beta k (v - S^T k)^T`, then `S^T q`."""

  def step(S, token):
    q, k, v, beta, log_decay = token
    S = jnp.exp(log_decay)[..., None] * S
    for m in range(k.shape[1]):
      recalled = jnp.einsum("bhk,bhkv->bhv", k[:, m], S)
      write = beta[:, m, :, None] * (v[:, m] - recalled)
      S = S + k[:, m, :, :, None] * write[..., None, :]
    return S, jnp.einsum("bhk,bhkv->bhv", q, S)

  tokens = q, k, v, beta, _per_key(log_decay, q)
  state = _matrix_state(initial_state, q, v)
  return step_through(step, state, tokens, segment_ids, reverse)


def normalized_linear_attention(
  q, k, v, log_input_gate=None, log_forget_gate=None, initial_state=None, *,
  floor=None, log_bonus=None, epsilon=0.0, segment_ids=None, reverse=False,
):  # fmt: skip
  """`y = S^T q / max(|z.q|, floor)`, the state held as `e^m (S, z)`.

  With a bonus, S and z of y are those before the token, plus `e^bonus` times
  the token's own write. With an epsilon, `epsilon e^m` is added to the divisor.
  """
  if floor is None:
    floor = 1e-6 if log_input_gate is None else 1.0

  def step(state, token):
    S, z, m = before = state
    q, k, v, log_i, log_f = token
    last, m = m, jnp.maximum(log_f + m, log_i)
    f, i = jnp.exp(log_f + last - m), jnp.exp(log_i - m)
    S = f[..., None, None] * S + i[..., None, None] * (
      k[..., :, None] * v[..., None, :]
    )
    z = f[..., None] * z + i[..., None] * k
    scale = jnp.exp(m)[..., None]
    y = scale * jnp.einsum("bhk,bhkv->bhv", q, S)
    norm = scale * jnp.sum(z * q, axis=-1, keepdims=True)
    if log_bonus is not None:
      scale = jnp.exp(last)[..., None]
      own = jnp.exp(log_i + log_bonus[None])[..., None]
      met = own * jnp.sum(q * k, axis=-1, keepdims=True)
      y = scale * jnp.einsum("bhk,bhkv->bhv", q, before[0]) + met * v
      norm = scale * jnp.sum(before[1] * q, axis=-1, keepdims=True) + met
    norm = jnp.maximum(jnp.abs(norm), floor)
    if epsilon:
      norm = norm + epsilon * jax.lax.stop_gradient(jnp.exp(m)[..., None])
    return (S, z, m), y / norm

  empty = 0, 0, -1e30
  if initial_state is None:
    S = _matrix_state(None, k, v)
    initial_state = S, S[..., 0], jnp.full_like(S[..., 0, 0], empty[2])
  gates = (
    jnp.zeros_like(q[..., 0]) if gate is None else gate
    for gate in (log_input_gate, log_forget_gate)
  )
  tokens = q, k, v, *gates
  y, state = step_through(
    step, tuple(initial_state), tokens, segment_ids, reverse, empty
  )
  return y, Normalized(*state)


def long_convolution(x, kernel, *, reverse=False):
  """`y_t = sum_j kernel_j x_{t-j}`, a sum for each token."""
  if reverse:
    return jnp.flip(long_convolution(jnp.flip(x, 1), kernel), 1)
  length = x.shape[1]
  outputs = []
  for t in range(length):
    taps = kernel[: t + 1]
    past = jnp.flip(x[:, : t + 1], 1)[:, : taps.shape[0]]
    outputs.append(jnp.sum(taps[None] * past, axis=1))
  return jnp.stack(outputs, axis=1)


def bidirectional(
  q, k, v, log_decay=None, *, normalize=False, floor=1e-6, segment_ids=None
):
  """`sum_j M_ij (q_i . k_j) v_j`; M_ij multiplies the decays between."""
  decay = jnp.exp(_per_key(log_decay, k)[..., 0])
  i, j, t = jnp.ogrid[: k.shape[1], : k.shape[1], : k.shape[1]]
  between = ((j <= t) & (t < i)) | ((i < t) & (t <= j))
  decay = jnp.moveaxis(decay, 1, 2)[:, :, None, None, :]
  M = jnp.prod(jnp.where(between[None, None], decay, 1), axis=-1)
  scores = M * jnp.einsum("bihk,bjhk->bhij", q, k)
  if segment_ids is not None:
    edge = segment_ids != jnp.roll(segment_ids, 1, axis=1)
    crossed = (jnp.minimum(i, j) < t) & (t <= jnp.maximum(i, j))
    apart = jnp.any(edge[:, None, None] & crossed[None], axis=-1)
    scores = jnp.where(apart[:, None], 0, scores)
  y = jnp.einsum("bhij,bjhv->bihv", scores, v)
  if normalize:
    row = jnp.moveaxis(jnp.sum(scores, axis=-1), 1, 2)
    y = y / jnp.maximum(jnp.abs(row), floor)[..., None]
  return y


def _per_key(log_decay, k):
  """Log decays [B, L, H, K] from none, one per head, or one per channel."""
  if log_decay is None:
    return jnp.zeros_like(k)
  if log_decay.ndim < k.ndim:
    log_decay = log_decay[..., None]
  return jnp.broadcast_to(log_decay, k.shape)


def _matrix_state(state, k, v):
  """The given state, or zeros [B, H, K, V]."""
  if state is None:
    return jnp.zeros((k.shape[0], *k.shape[-2:], v.shape[-1]), k.dtype)
  return state
