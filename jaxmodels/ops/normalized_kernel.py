"""The TPU kernel of normalised linear attention.

The running maxima m_t depend on the gates alone, so they are computed first.
With them the stabilised state is that of linear attention, with values that
have a column of ones, and with weights and decays of at most 1:

    S~_t = exp(log f_t + m_{t-1} - m_t) S~_{t-1}
           + exp(log i_t - m_t) k_t [v_t, 1]^T

The kernel runs this recurrence, and divides each output by its last column.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.chunks import Tree, merge, split
from jaxmodels.ops.engine.recurrence import Kernel, read_then_advance
from jaxmodels.ops.engine.segments import Masks, joined_by_row
from jaxmodels.ops.kernels import chunk_kernel
from jaxmodels.ops.linear_attention import FAMILY as LINEAR
from jaxmodels.ops.linear_attention import Tokens as LinearTokens

__all__ = ["normalized_kernel", "with_one"]


class _Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], and three columns [C, 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array
  weight: jax.Array
  m: jax.Array


def normalized_kernel(
  finish: Callable[[jax.Array, jax.Array], jax.Array], cut: float
) -> Kernel:
  """Makes the form "pallas" of normalised linear attention.

  Args:
    finish: `(y~, m) -> y` of a chunk: [C, V] from the stabilised outputs
      [C, V + 1] and the maxima [C, 1].
    cut: the log forget gate of a token that starts a segment.

  Returns:
    the kernel, for chunks with q, k, v, log_i and log_f, and a state (Sz, m).
  """
  read_and_advance = read_then_advance(LINEAR)

  def of_chunk(chunk, masks, state):
    values = chunk.weight * with_one(chunk.v)
    tokens = LinearTokens(chunk.q, chunk.k, values, chunk.log_decay)
    y, state = read_and_advance(tokens, masks, state)
    return finish(y, chunk.m), state

  run_chunks = chunk_kernel(of_chunk, extra=1)

  def run(
    chunks: Any, masks: Masks, state: Any, dtype: Any
  ) -> tuple[jax.Array, Tree]:
    count, _, _, size = chunks.log_f.shape
    log_i, log_f = (
      merge(x, count * size) for x in (chunks.log_i, chunks.log_f)
    )
    if not masks.constant:
      joined = joined_by_row(masks).reshape(*log_f.shape[:2], 1)
      log_f = jnp.where(joined, log_f, cut)
    m = _maxima(log_i, log_f, state.m)
    # Outputs do not depend on the maxima, nor do the weights of writes in the
    # state: only its scale does.
    fixed = lax.stop_gradient(m)
    before = jnp.concatenate([state.m[:, None], fixed[:, :-1]], axis=1)
    columns = log_f + (before - fixed), jnp.exp(log_i - fixed), fixed
    columns = (split(x[..., None], size, None) for x in columns)
    tokens = _Tokens(chunks.q, chunks.k, chunks.v, *columns)
    y, Sz = run_chunks(tokens, masks, state.Sz, dtype)
    scale = jnp.exp(fixed[:, -1] - m[:, -1])
    return y, type(state)(scale[..., None, None] * Sz, m[:, -1])

  return run


def with_one(v: jax.Array) -> jax.Array:
  """Appends a column of ones to v [C, V], which makes the normaliser."""
  return jnp.concatenate([v, jnp.ones_like(v, shape=(v.shape[0], 1))], axis=1)


def _maxima(log_i, log_f, before):
  """`m_t = max(log f_t + m_{t-1}, log i_t)` [B, L, H], of m [B, H] before."""
  first = jnp.maximum(log_f[:, 0] + before, log_i[:, 0])
  log_i = jnp.concatenate([first[:, None], log_i[:, 1:]], axis=1)

  def compose(earlier, later):
    kept = earlier[1] + later[0]
    return earlier[0] + later[0], jnp.maximum(kept, later[1])

  return lax.associative_scan(compose, (log_f, log_i), axis=1)[1]
