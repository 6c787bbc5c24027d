"""Normalised linear attention, given its running maxima.

The maxima m_t depend on the gates alone. With them the stabilised state is that
of linear attention, with values that have a column of ones, and with weights
and decays of at most 1:

    S~_t = exp(log f_t + m_{t-1} - m_t) S~_{t-1}
           + exp(log i_t - m_t) k_t [v_t, 1]^T

So the states walk as those of linear attention do, and its kernel for TPUs runs
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.chunks import Tree, merge, split
from jaxmodels.ops.engine.recurrence import Family, read_then_advance
from jaxmodels.ops.engine.segments import Masks, joined_by_row
from jaxmodels.ops.kernels import chunk_kernel
from jaxmodels.ops.linear_attention import FAMILY as LINEAR
from jaxmodels.ops.linear_attention import Tokens as LinearTokens

__all__ = ["family_of", "known_maxima", "with_one"]


class _Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], and three columns [C, 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array
  weight: jax.Array
  m: jax.Array


def family_of(finish: Callable[[jax.Array, jax.Array], jax.Array]) -> Family:
  """The family of the stabilised state [K, V + 1].

  Args:
    finish: `(y~, m) -> y` of a chunk: [C, V] from the stabilised outputs
      [C, V + 1] and the maxima [C, 1].
  """

  def writes(chunk):
    values = chunk.weight * with_one(chunk.v)
    return LinearTokens(chunk.q, chunk.k, values, chunk.log_decay)

  def summarize(chunk, masks):
    return LINEAR.summarize(writes(chunk), masks)

  def read(chunk, masks, state):
    return finish(LINEAR.read(writes(chunk), masks, state), chunk.m)

  family = Family(summarize, LINEAR.compose, LINEAR.advance, read, linear=True)
  kernel = chunk_kernel(read_then_advance(family), extra=1)
  return family._replace(kernel=kernel)


def known_maxima(
  family: Family, cut: float, chunks: Any, masks: Masks, state: Any
) -> tuple[Family, Tree, jax.Array, Callable[[jax.Array], Any]]:
  """A `Family.prepare`.

  Args:
    family: `family_of`.
    cut: the log forget gate of a token that starts a segment.
    chunks: with q, k, v, log_i and log_f.
    masks: of all chunks.
    state: (Sz, m), a named tuple.
  """
  count, _, _, size = chunks.log_f.shape
  log_i, log_f = (merge(x, count * size) for x in (chunks.log_i, chunks.log_f))
  if not masks.constant:
    joined = joined_by_row(masks).reshape(*log_f.shape[:2], 1)
    log_f = jnp.where(joined, log_f, cut)
  m = _maxima(log_i, log_f, state.m)
  # The maxima scale the state, and change nothing else: outputs and e^m S~ have
  # no gradient through them.
  fixed = lax.stop_gradient(m)
  before = jnp.concatenate([state.m[:, None], fixed[:, :-1]], axis=1)
  columns = (
    split(x[..., None], size, None)
    for x in (log_f + (before - fixed), jnp.exp(log_i - fixed), fixed)
  )
  tokens = _Tokens(chunks.q, chunks.k, chunks.v, *columns)

  def restore(Sz: jax.Array) -> Any:
    scale = jnp.exp(fixed[:, -1] - m[:, -1])
    return state._replace(Sz=scale[..., None, None] * Sz, m=m[:, -1])

  return family, tokens, state.Sz, restore


def with_one(v: jax.Array) -> jax.Array:
  """Appends a column of ones to v [C, V], which makes the normaliser."""
  return jnp.concatenate([v, jnp.ones_like(v, shape=(v.shape[0], 1))], axis=1)


def _maxima(log_i, log_f, before):
  """`m_t = max(log f_t + m_{t-1}, log i_t)` [B, L, H], of m [B, H] before."""
  if is_open(log_f.shape[1]):  # An associative scan needs the length.
    return _by_token(log_i, log_f, before)
  first = jnp.maximum(log_f[:, 0] + before, log_i[:, 0])
  log_i = jnp.concatenate([first[:, None], log_i[:, 1:]], axis=1)

  def compose(earlier, later):
    kept = earlier[1] + later[0]
    return earlier[0] + later[0], jnp.maximum(kept, later[1])

  return lax.associative_scan(compose, (log_f, log_i), axis=1)[1]


def _by_token(log_i, log_f, before):
  """The same, token by token."""

  def step(m, gates):
    m = jnp.maximum(gates[1] + m, gates[0])
    return m, m

  gates = (jnp.swapaxes(x, 0, 1) for x in (log_i, log_f))
  return jnp.swapaxes(lax.scan(step, before, tuple(gates))[1], 0, 1)
