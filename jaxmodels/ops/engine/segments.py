"""Segments: documents packed in one row, episodes, padding.

`from_cu_seqlens`, `from_resets` and `continue_ids` make the segment ids that
every op takes; `jaxmodels.ops.segments` is this module.

Masks say which tokens of a chunk may talk, and to which states. Computed once
from the segment ids, so that packed documents, episode resets and padding are
right for every family at once. Without ids every token is joined to every
other and the masks are constants, which the compiler folds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def from_cu_seqlens(cu_seqlens: jax.Array, length: int) -> jax.Array:
  """Segment ids of documents that lie one behind the other in one row.

  For data in the layout of variable-length attention kernels: the boundaries
  of the documents, as cumulative sums of their lengths.

  The first document has id 0, so it starts from the state that enters (zero
  unless an op is given an `initial_state`); each other one starts from zero.
  Tokens behind the last boundary are padding: one more segment, which neither
  reads nor changes a document, but whose state is the one that leaves.

  Args:
    cu_seqlens: [..., N + 1] integers, `0, n_1, n_1 + n_2, ...` for N documents
      of n_i tokens. Empty documents are allowed, so the last boundary may be
      repeated to fill an array of fixed size.
    length: L, the tokens of the row, padding included; static.

  Returns:
    [..., L] of int32.
  """

  def ids(ends):  # The number of documents that end before each token.
    tokens = jnp.arange(length, dtype=jnp.int32)
    return jnp.searchsorted(ends, tokens, side="right").astype(jnp.int32)

  ends = jnp.asarray(cu_seqlens, jnp.int32)[..., 1:]
  return jnp.vectorize(ids, signature="(n)->(l)")(ends)


def from_resets(resets: jax.Array) -> jax.Array:
  """Segment ids of episodes, from the tokens at which the state is reset.

  For reinforcement learning and streams: a token with a reset starts from
  zero, whatever came before. A reset at the first token drops the state that
  enters; without one that state continues.

  Args:
    resets: [..., L], booleans, or integers of which each but 0 is a reset.

  Returns:
    [..., L] of int32.
  """
  resets = jnp.asarray(resets).astype(bool)
  return jnp.cumsum(resets, axis=-1, dtype=jnp.int32)


def continue_ids(ids: jax.Array, last: jax.Array) -> jax.Array:
  """Segment ids behind a cut, for an op that is given the state at the cut.

  For sequences that are run piece by piece. The state that enters an op has
  id 0, so the segment that the cut went through must have it too:

      y1, state = op(x[:, :t], segment_ids=ids[:, :t])
      rest = continue_ids(ids[:, t:], ids[:, t - 1])
      y2, _ = op(x[:, t:], initial_state=state, segment_ids=rest)

  which equals the uncut run, wherever the cut is. In reverse the state enters
  at the last token and has its id, so ids stay as they are; where a reverse
  run is cut between two segments, give no state.

  Args:
    ids: [..., L] integers behind the cut.
    last: [...], the id of the token before the cut, numbered as `ids` are.

  Returns:
    [..., L], 0 where a segment continues.
  """
  return jnp.asarray(ids) - jnp.asarray(last)[..., None]


class Masks(NamedTuple):
  """Who is joined to whom in one chunk of C tokens (booleans).

  Attributes:
    pair: [C, C], token i reads what token j <= i wrote.
    entry: [C], the token is still joined to the state that entered.
    exit: [C], the token is still joined to the state that leaves.
    through: [], the state that entered is joined to the one that leaves.
  """

  pair: jax.Array | np.ndarray
  entry: jax.Array | np.ndarray
  exit: jax.Array | np.ndarray
  through: jax.Array | np.ndarray

  @property
  def constant(self) -> bool:
    """Whether they are those of `causal_masks`, the same for all chunks."""
    return isinstance(self.pair, np.ndarray)

  @property
  def previous(self) -> jax.Array:
    """[C], the token is joined to what came right before it."""
    return jnp.concatenate([self.entry[:1], jnp.diagonal(self.pair, offset=-1)])

  def cut(self, x: jax.Array) -> jax.Array:
    """Makes x [C, ...] 0 at tokens not joined to what came right before."""
    if self.constant:
      return x
    joined = jnp.expand_dims(self.previous, range(1, x.ndim))
    return jnp.where(joined, x, 0)


def starts(ids: jax.Array, before: jax.Array) -> jax.Array:
  """Where a segment starts: at each token whose id is not the one before.

  Args:
    ids: [..., L] integers.
    before: [..., 1], the id before the first token.

  Returns:
    [..., L] booleans.
  """
  ids = jnp.asarray(ids)
  before = jnp.asarray(before, ids.dtype)
  return ids != jnp.concatenate([before, ids[..., :-1]], axis=-1)


def count_changes(ids: jax.Array, before: jax.Array) -> jax.Array:
  """How often the id has changed up to each token.

  A segment is a run of equal ids, so two tokens are joined if and only if
  their counts are equal, and a count of 0 is the segment of `before`.

  Args:
    ids: [..., L] integers.
    before: [..., 1], the id before the first token.

  Returns:
    [..., L] of int32.
  """
  return jnp.cumsum(starts(ids, before), axis=-1, dtype=jnp.int32)


def segment_masks(ids: jax.Array, before: jax.Array) -> Masks:
  """Masks of one chunk from its segment ids [C] and the id [] before it."""
  changes = count_changes(ids, jnp.reshape(before, 1))
  causal = np.tri(changes.shape[0], dtype=bool)
  return Masks(
    pair=causal & (changes[:, None] == changes[None, :]),
    entry=changes == 0,
    exit=changes == changes[-1],
    through=changes[-1] == 0,
  )


def causal_masks(size: int) -> Masks:
  """Masks of a chunk of `size` tokens that are all joined."""
  joined = np.ones(size, dtype=bool)
  return Masks(np.tri(size, dtype=bool), joined, joined, np.array(True))


def token_masks(masks: Masks) -> Callable[[jax.Array], Masks]:
  """Masks of single tokens, from `masks.previous` of each."""
  if masks.constant:
    return lambda joined: causal_masks(1)
  return lambda joined: segment_masks(jnp.zeros(1, bool), ~joined)
