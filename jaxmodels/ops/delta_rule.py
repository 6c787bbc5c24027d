"""The delta rule: `S_t = (I - beta k k^T) decay_t S_{t-1} + beta k v^T`.

DeltaNet in its chunkwise form (Yang et al. 2024, arXiv:2406.06484), with one
decay per head (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464) or one per
key channel (KDA, Kimi Team 2025, arXiv:2510.26692), and beta up to 2 for
negative eigenvalues (Grazzi et al. 2024, arXiv:2411.12537).

Each token writes `k_t u_t^T`, where `u_t = beta_t (v_t - k_t^T decay_t
S_{t-1})` is beta times the error of the value that the state recalls for k_t.
Within a chunk

    (I + A) u = beta (v - k_entry S),    A_ij = beta_i k_i decay_ij k_j, j < i,

with S the state before the chunk: one unit lower triangular system per chunk.

Gated DeltaNet-2 (Hatamizadeh et al. 2026, arXiv:2605.22791) has one gate per
channel for erasing and one for writing: `u_t = w_t v_t - (b_t k_t)^T decay_t
S_{t-1}`. Keys k write, and keys `b k` erase.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.checks import require
from jaxmodels.ops.engine.chunks import zero_matrix
from jaxmodels.ops.engine.decay import (
  boundary_decay,
  decays,
  pair_decay,
  per_channel,
  scores,
)
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.recurrence import (
  Factored,
  Family,
  Method,
  Summary,
)
from jaxmodels.ops.engine.shared_keys import recall, write
from jaxmodels.ops.engine.triangular import solve_unit_lower
from jaxmodels.ops.kernels import (
  chunk_kernel,
  fits_chunk_kernel,
  fits_walk,
  walk_edits,
)


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], beta [C], log_decay [C, K | 1].

  With a write_gate [C, V], beta is [C] or [C, K].
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  beta: jax.Array
  log_decay: jax.Array | None
  write_gate: jax.Array | None = None


def delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  write_gate: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The delta rule, with no decay, one per head, or one per key channel.

      S'_t = diag(exp(log_decay_t)) S_{t-1}
      S_t  = S'_t + beta_t k_t (v_t - S'_t^T k_t)^T
      y_t  = S_t^T q_t

  The decay acts before the correction. The op does not normalise keys: the
  norm of the transition is at most 1 if `beta |k|^2 <= 2`.

  With a write gate, beta is only the erase gate, one per head or one per key
  channel, as in Gated DeltaNet-2:

      S_t  = S'_t + k_t (write_gate_t v_t - S'_t^T (beta_t k_t))^T

  If both gates are the same number per head, this is the delta rule above. A
  beta that differs between channels makes the transition asymmetric, and its
  norm may exceed 1 even if `beta |k|^2 <= 2`.

  Cost: about 4 C (K + V) + 6 K V + 2/3 C^2 flops per token and head, chunked
  forward. A decay per head adds 2 C^2, a decay per key channel (4 C + 320) K,
  and the gates K + V. On a TPU, matrix products take 4 C^2 log2(C) in place of
  2/3 C^2, and there and on a GPU 6 C K log2(C) for a decay per key channel.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    beta: [..., L, H], in [0, 2]; with a write gate also [..., L, H, K].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V].
    write_gate: [..., L, H, V], in [0, 2]; or None: beta is then one per head,
      and both erases and writes.

  Returns:
    y [..., L, H, V], and the final state [..., H, K, V].
  """
  return OP(
    {
      "k": k,
      "q": q,
      "v": v,
      "beta": beta,
      "log_decay": log_decay,
      "write_gate": write_gate,
    },
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _recurrence(k, q, v, beta, log_decay, write_gate):
  require(
    write_gate is not None or beta.ndim < k.ndim,
    "delta_rule: beta must be [..., L, H] without a write_gate, got "
    "[..., L, H, K]: give write_gate too",
  )
  gate = per_channel(log_decay, k)
  return Recurrence(
    FAMILY,
    Tokens(q, k, v, beta, gate, write_gate),
    choose(
      "delta_rule" + decays(log_decay, k),
      k,
      v,
      fits=fits_chunk_kernel(k, v, q, beta, log_decay, write_gate),
    ),
  )


class _Edit(NamedTuple):
  """The writes `k u^T` of a chunk, where u = rate (value - S^T erase).

  Attributes:
    erase: [C, K], the keys that read the state.
    value: [C, V].
    rate: [C].
  """

  erase: jax.Array
  value: jax.Array
  rate: jax.Array


def _edit(chunk) -> _Edit:
  """Without a write gate, k also erases, and beta is the rate."""
  if chunk.write_gate is None:
    return _Edit(chunk.k, chunk.v, chunk.beta)
  beta = chunk.beta if chunk.beta.ndim == 2 else chunk.beta[:, None]
  ones = jnp.ones_like(chunk.k, shape=chunk.k.shape[:1])
  return _Edit(beta * chunk.k, chunk.write_gate * chunk.v, ones)


def _system(chunk, between, masks) -> jax.Array:
  """`A` [C, C], strictly lower: how each key reads the earlier writes."""
  edit = _edit(chunk)
  overlap = scores(edit.erase, chunk.k, between, masks)
  earlier = np.tri(chunk.k.shape[0], k=-1, dtype=bool)
  return jnp.where(earlier, edit.rate[:, None] * overlap, 0)


class Factors(NamedTuple):
  """The update of a state by a chunk: `S' = diag(through) S + k^T u`.

  The writes of the chunk are `u = from_v - from_k S`.

  Attributes:
    through: [K] or [1], the decay over the chunk.
    from_v: [C, V], the writes if S is zero.
    from_k: [C, K], the factor on S in the writes.
    k: [C, K], the keys, decayed to the end of the chunk.
  """

  through: jax.Array
  from_v: jax.Array
  from_k: jax.Array
  k: jax.Array


def factor(chunk, masks):
  """The writes are affine in the state, `u = from_v - from_k S`."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  edit = _edit(chunk)
  met = jnp.concatenate([edit.value, edit.erase * decay.entry], axis=1)
  solved = solve_unit_lower(
    _system(chunk, pair_decay(chunk.log_decay), masks),
    edit.rate[:, None] * met,
  )
  from_v, from_k = jnp.split(solved, [chunk.v.shape[1]], axis=1)
  return Factors(decay.through, from_v, from_k, chunk.k * decay.exit)


def summarize(chunk, masks):
  """The summary of the factors."""
  return summarize_factors(factor(chunk, masks))


def summarize_factors(factors):
  """The state after the chunk, `through S + k^T u`, is affine in S too."""
  through, from_v, from_k, k = factors
  same = np.eye(k.shape[1], dtype=bool)
  through = jnp.where(same, through[:, None], 0)
  return Summary(through - k.T @ from_k, k.T @ from_v)


def enter(factors, state):
  """The state before the chunk, and the writes `u` [C, V] that it leads to."""
  return state, factors.from_v - factors.from_k @ state


def walk(factors, state, written=None):
  """Enters all chunks [n, B, H, ...] in one kernel, where a GPU has it.

  Args:
    factors: of all chunks.
    state: [B, H, K, V], before the first chunk.
    written: [n, B, H, K, V], more that the chunks write; None for zeros.

  Returns:
    what all chunks enter with, and the state after the last one; or None.
  """
  through, from_v, from_k, k = factors
  if not fits_walk(k, from_v, state):
    return None
  through = jnp.broadcast_to(through, (*k.shape[:3], k.shape[4]))
  before, u, last = walk_edits(through, k, -from_k, from_v, written, state)
  return (before, u), last


def compose(earlier, later):
  """Composes two affine maps."""
  return Summary(
    later.transition @ earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  """`transition S + update`."""
  return summary.transition @ state + summary.update


def read(chunk, masks, state):
  """Reads the writes of the chunk and the state before it."""
  return read_and_advance(chunk, masks, state)[0]


def read_and_advance(chunk, masks, state):
  """Solves for the writes `u` of this state, without the transition."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  between = pair_decay(chunk.log_decay)
  u = solve_unit_lower(
    _system(chunk, between, masks), _surprise(chunk, decay, state)
  )
  y = _outputs(chunk, masks, decay, between, state, u)
  return y, _leaving(chunk, decay, state, u)


def step(token, masks, state):
  """One token needs no scores and no triangular system."""
  decay = boundary_decay(token.log_decay, token.k, masks)
  state = _leaving(token, decay, state, _surprise(token, decay, state))
  return token.q @ state, state


def _surprise(chunk, decay, state):
  """`rate (value - erase_entry S)` [C, V]: the error of the recalled values."""
  edit = _edit(chunk)
  recalled = recall(edit.erase, decay.entry, state)
  return edit.rate[:, None] * (edit.value - recalled)


def _leaving(chunk, decay, state, u):
  """`through S + k^T u`, the state after the writes."""
  return decay.through[:, None] * state + write(chunk.k, decay.exit, u)


def read_writes(chunk, masks, state_and_writes):
  """As `read`, given the writes `u` [C, V] of the chunk too."""
  state, u = state_and_writes
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  between = pair_decay(chunk.log_decay)
  return _outputs(chunk, masks, decay, between, state, u)


def _outputs(chunk, masks, decay, between, state, u):
  """The queries read the chunk's writes and the state before the chunk."""
  y = scores(chunk.q, chunk.k, between, masks) @ u
  return y + recall(chunk.q, decay.entry, state)


FAMILY = Family(
  summarize,
  compose,
  advance,
  read,
  read_and_advance,
  step,
  factored=Factored(factor, summarize_factors, enter, read_writes, walk),
  kernel=chunk_kernel(read_and_advance),
  linear=True,
  zero=zero_matrix,
)
OP = Op(
  "delta_rule",
  _recurrence,
  {
    "k": "... L h K",
    "q": "... L h K",
    "v": "... L H V",
    "beta": "... L H | ... L H K",
    "log_decay": "... L H | ... L H K",
    "write_gate": "... L H V",
  },
  y="... L H V",
  state="... H K V",
  within={"beta": (0, 2), "write_gate": (0, 2)},
  like="v",
)
