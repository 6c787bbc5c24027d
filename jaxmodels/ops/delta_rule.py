"""The delta rule: `S_t = (I - beta k k^T) decay_t S_{t-1} + beta k v^T`.

DeltaNet in its chunkwise form (Yang et al. 2024, arXiv:2406.06484), with one
decay a head (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464) or one a key
channel (KDA, Kimi Team 2025, arXiv:2510.26692), and beta up to 2 for negative
eigenvalues (Grazzi et al. 2024, arXiv:2411.12537).

Each token writes `k_t u_t^T` where `u_t = beta_t (v_t - k_t^T decay_t
S_{t-1})` is what its key does not yet recall. Within a chunk that makes

    (I + A) u = beta (v - k_entry S),    A_ij = beta_i k_i decay_ij k_j, j < i,

with S the state that entered: one unit lower triangular system a chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.decay import Decay, boundary_decay, decayed_scores
from jaxmodels.ops.matrix_state import run_matrix_state
from jaxmodels.ops.recurrence import Family, Method, Segment
from jaxmodels.ops.triangular import invert_unit_lower


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], beta [C], log_decay [C, K | 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  beta: jax.Array
  log_decay: jax.Array | None


def delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The delta rule, with no decay, a decay a head, or a decay a key channel.

      S'_t = diag(exp(log_decay_t)) S_{t-1}
      S_t  = S'_t + beta_t k_t (v_t - S'_t^T k_t)^T
      y_t  = S_t^T q_t

  The decay acts before the correction. Keys are taken as they are: for a
  transition that never grows, `beta |k|^2 <= 2`. No scale is hidden.

  Args:
    q: [..., L, H, K].
    k: [..., L, H, K].
    v: [..., L, H, V].
    beta: [..., L, H], in [0, 2].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V]; zero by default.
    segment_ids: [..., L] integers that only grow. The entering state has id
      0, and each token sees only what has its own id.
    reverse: run from the last token to the first.
    method: a form of the engine, see `jaxmodels.ops.recurrence`; "auto" is
      "chunked" on CPU and "parallel" elsewhere.
    chunk_size: a power of two; 64 by default, 128 on TPU.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    y [..., L, H, V] in the dtype of v, and the final state [..., H, K, V] in
    float32 or wider.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  return run_matrix_state(
    "delta_rule",
    FAMILY,
    Tokens(q, k, v, beta, log_decay),
    initial_state,
    segment_ids=segment_ids,
    reverse=reverse,
    method=method,
    chunk_size=chunk_size,
    axis_name=axis_name,
  )


class _Chunk(NamedTuple):
  """What all of the four functions need of a chunk.

  `solve` [C, C] is the inverse of I + A times diag(beta); `entry_k` [C, K]
  are the keys as the entering state meets them, `exit_k` [C, K] as the
  leaving state holds them.
  """

  solve: jax.Array
  entry_k: jax.Array
  exit_k: jax.Array
  decay: Decay


def _prepare(chunk, links) -> _Chunk:
  k, beta = chunk.k, chunk.beta
  decay = boundary_decay(chunk.log_decay, k, links)
  overlap = decayed_scores(k, k, chunk.log_decay, links)
  earlier = np.tri(k.shape[0], k=-1, dtype=bool)
  A = jnp.where(earlier, beta[:, None] * overlap, 0)
  return _Chunk(
    solve=invert_unit_lower(A) * beta[None, :],
    entry_k=k * decay.entry,
    exit_k=k * decay.exit,
    decay=decay,
  )


def summarize(chunk, links):
  """`u = solve v - (solve entry_k) S` makes the update and the transition."""
  c = _prepare(chunk, links)
  same = np.eye(chunk.k.shape[-1], dtype=bool)
  decay = jnp.where(same, c.decay.through[:, None], 0)
  return Segment(
    decay - c.exit_k.T @ (c.solve @ c.entry_k),
    c.exit_k.T @ (c.solve @ chunk.v),
  )


def compose(earlier, later):
  """Affine maps one after the other."""
  return Segment(
    later.transition @ earlier.transition, advance(later, earlier.update)
  )


def advance(segment, state):
  """`transition S + update`."""
  return segment.transition @ state + segment.update


def read(chunk, links, state):
  """What tokens of the chunk wrote, and what the entering state holds."""
  return walk(chunk, links, state)[0]


def walk(chunk, links, state):
  """With the state at hand the writes `u` follow without the transition."""
  c = _prepare(chunk, links)
  u = c.solve @ (chunk.v - c.entry_k @ state)
  scores = decayed_scores(chunk.q, chunk.k, chunk.log_decay, links)
  y = scores @ u + (chunk.q * c.decay.entry) @ state
  return y, c.decay.through[:, None] * state + c.exit_k.T @ u


FAMILY = Family(summarize, compose, advance, read, walk)
