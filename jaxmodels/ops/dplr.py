"""Diagonal plus low rank: `S_t = (diag(w_t) + a_t b_t^T) S_{t-1} + k_t v_t^T`.

The recurrence of RWKV-7 (Peng et al. 2025, arXiv:2503.14456). The delta rule
is the case `a = -beta k, b = w k`. With `u_t = S_{t-1}^T b_t`, which reads the
state before the decay of token t, each token writes `k_t v_t^T + a_t u_t^T`.
Within a chunk

    (I - M(b, a)) u = M(b, k) v + b_before S,
    M(x, y)_ij = x_i . decay(j < t < i) y_j for j < i,

with S the state before the chunk: one unit lower triangular system per chunk.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.delta_rule import Factors as ErasedFactors
from jaxmodels.ops.delta_rule import advance, compose
from jaxmodels.ops.delta_rule import enter as enter_erased
from jaxmodels.ops.delta_rule import summarize_factors as summarize_erased
from jaxmodels.ops.delta_rule import walk as walk_erased
from jaxmodels.ops.engine.auto import NARROW_KEYS, choose
from jaxmodels.ops.engine.cells import scan_tokens
from jaxmodels.ops.engine.chunks import zero_matrix
from jaxmodels.ops.engine.decay import (
  before_own,
  boundary_decay,
  decays,
  pair_decay,
  paired_scores,
  per_channel,
  scores,
  strict,
  strict_entry,
  strict_scores,
)
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.recurrence import (
  Factored,
  Family,
  Method,
  Summary,
)
from jaxmodels.ops.engine.shared_keys import recall, write
from jaxmodels.ops.engine.triangular import solve_unit_lower
from jaxmodels.ops.kernels import chunk_kernel, fits_chunk_kernel


class Tokens(NamedTuple):
  """A chunk: q, k, a, b [C, K], v [C, V], log_decay [C, K | 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  a: jax.Array
  b: jax.Array
  log_decay: jax.Array | None


def dplr_recurrence(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  a: jax.Array,
  b: jax.Array,
  log_decay: jax.Array | None,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Diagonal plus low rank transitions, as in RWKV-7.

      S_t = (diag(exp(log_decay_t)) + a_t b_t^T) S_{t-1} + k_t v_t^T
      y_t = S_t^T q_t

  b reads the state before the decay; y reads it after the token. The paper
  writes the state transposed, with `a = -kappa` and with b the removal key
  times its learning rate. This op does not include its bonus term. The op does
  not bound the transition: its norm depends on a and b.

  Cost: about 8 C (K + V) + 8 K V + 2/3 C^2 flops per token and head, chunked
  forward. A decay per head adds 2 C^2, a decay per key channel (4 C + 300) K.
  On a CPU, with a decay per key channel and K <= 64, "chunked" runs token by
  token inside its chunks and takes 8 K V + 220 K. On a TPU, matrix products
  take 4 C^2 log2(C) in place of 2/3 C^2, and there and on a GPU 10 C K log2(C)
  for a decay per key channel.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    a: [..., L, h, K].
    b: [..., L, h, K].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V].

  Returns:
    y [..., L, H, V], and the final state [..., H, K, V].
  """
  return OP(
    {"k": k, "q": q, "v": v, "a": a, "b": b, "log_decay": log_decay},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _recurrence(k, q, v, a, b, log_decay):
  choice = choose(
    "dplr_recurrence" + decays(log_decay, k),
    k,
    v,
    fits=fits_chunk_kernel(k, v, q, a, b, log_decay),
  )
  per_key = log_decay is not None and log_decay.ndim == k.ndim
  narrow = platform() == "cpu" and k.shape[-1] <= NARROW_KEYS
  return Recurrence(
    BY_TOKEN if per_key and narrow else FAMILY,
    Tokens(q, k, v, a, b, per_channel(log_decay, k)),
    choice,
  )


class Scores(NamedTuple):
  """Scores [C, C] of b, strict, and of q with the keys k and a."""

  b_k: jax.Array
  b_a: jax.Array
  q_k: jax.Array
  q_a: jax.Array


class Factors(NamedTuple):
  """The update of a state by a chunk: that of a delta rule, and `written`.

  Attributes:
    erased: `S' = diag(through) S + a^T u` with `u = from_v - from_k S`, where a
      is in the place of the delta rule's k.
    written: [K, V], what the chunk's own keys write.
    met: the scores, which outputs need too.
  """

  erased: ErasedFactors
  written: jax.Array
  met: Scores


def _scores(chunk, masks):
  """All four scores: for a GPU, one launch per product."""
  between: Any = pair_decay(chunk.log_decay)
  if platform() != "gpu":
    return Scores(
      strict_scores(chunk.b, chunk.k, between, masks),
      strict_scores(chunk.b, chunk.a, between, masks),
      scores(chunk.q, chunk.k, between, masks),
      scores(chunk.q, chunk.a, between, masks),
    )
  queries = jnp.stack([before_own(chunk.b), chunk.q])
  keys = jnp.stack([chunk.k, chunk.a])
  (b_k, b_a), (q_k, q_a) = paired_scores(queries, keys, between, masks)
  return Scores(strict(b_k, masks), strict(b_a, masks), q_k, q_a)


def factor(chunk, masks):
  """`u` is affine in the state: `(I - b_a) u = b_k v + b S`."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  met = _scores(chunk, masks)
  entering = chunk.b * strict_entry(decay, masks)
  known = jnp.concatenate([met.b_k @ chunk.v, -entering], axis=1)
  solved = solve_unit_lower(-met.b_a, known)
  from_v, from_k = jnp.split(solved, [chunk.v.shape[1]], axis=1)
  return Factors(
    ErasedFactors(decay.through, from_v, from_k, chunk.a * decay.exit),
    write(chunk.k, decay.exit, chunk.v),
    met,
  )


def summarize_factors(factors):
  """The state after the chunk is affine in S too."""
  transition, update = summarize_erased(factors.erased)
  return Summary(transition, factors.written + update)


def summarize(chunk, masks):
  """The summary of the factors."""
  return summarize_factors(factor(chunk, masks))


def enter(factors, state):
  """The state before the chunk, the `u` [C, V] that it leads to, and scores."""
  return enter_erased(factors.erased, state), factors.met


def walk(factors, state):
  """The walk of the delta rule, with what the chunk's own keys write."""
  walked = walk_erased(factors.erased, state, factors.written)
  return walked and ((walked[0], factors.met), walked[1])


def read(chunk, masks, state):
  """Reads the writes of the chunk and the state before it."""
  return read_and_advance(chunk, masks, state)[0]


def read_and_advance(chunk, masks, state):
  """Solves for the `u` of this state, without the transition."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  met = _scores(chunk, masks)
  entering = recall(chunk.b, strict_entry(decay, masks), state)
  u = solve_unit_lower(-met.b_a, met.b_k @ chunk.v + entering)
  y = _outputs(chunk, decay, met, state, u)
  return y, _leaving(chunk, decay, state, u)


def read_entered(chunk, masks, entering):
  """As `read`, given the `u` [C, V] of the chunk and its scores too."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  (state, u), met = entering
  return _outputs(chunk, decay, met, state, u)


def _outputs(chunk, decay, met, state, u):
  """The queries read what the chunk wrote, and the state before it."""
  y = met.q_k @ chunk.v
  y += met.q_a @ u
  return y + recall(chunk.q, decay.entry, state)


def step(token, masks, state):
  """One token needs no scores and no triangular system."""
  decay = boundary_decay(token.log_decay, token.k, masks)
  u = recall(token.b, strict_entry(decay, masks), state)
  state = _leaving(token, decay, state, u)
  return token.q @ state, state


def _leaving(chunk, decay, state, u):
  """`through S + k^T v + a^T u`, the state after the chunk."""
  state = decay.through[:, None] * state
  state += write(chunk.k, decay.exit, chunk.v)
  return state + write(chunk.a, decay.exit, u)


FAMILY = Family(
  summarize,
  compose,
  advance,
  read,
  read_and_advance,
  step,
  factored=Factored(factor, summarize_factors, enter, read_entered, walk),
  kernel=chunk_kernel(read_and_advance),
  linear=True,
  zero=zero_matrix,
)
BY_TOKEN = FAMILY._replace(read_and_advance=scan_tokens(read_and_advance))
OP = Op(
  "dplr_recurrence",
  _recurrence,
  {
    "k": "... L h K",
    "q": "... L h K",
    "v": "... L H V",
    "a": "... L h K",
    "b": "... L h K",
    "log_decay": "... L H | ... L H K",
  },
  y="... L H V",
  state="... H K V",
  like="v",
)
