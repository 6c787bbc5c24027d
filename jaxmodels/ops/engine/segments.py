"""Segments: documents packed in one row, episodes, padding.

`from_cu_seqlens`, `from_resets` and `continue_ids` make the segment ids that
every op takes; `jaxmodels.ops.segments` is this module.

`Masks` say which tokens of a chunk are in one segment, and which are in the
segment of the state before or after the chunk. The engine computes them once
from the segment ids, for all families, so that packed documents, episode resets
and padding are right in every op. Without ids all tokens are in one segment,
and the masks are constants, which the compiler folds.

Two tokens, or a token and a state, are joined if they are in one segment.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def from_cu_seqlens(cu_seqlens: jax.Array, length: int) -> jax.Array:
  """Segment ids of documents that follow one another in one row.

  The boundaries are cumulative sums of the lengths of the documents, as in
  variable-length attention kernels.

  The first document has id 0, so it continues the op's `initial_state` (zero by
  default). Each other document starts from zero. Tokens after the last boundary
  are padding: one more segment, which neither reads nor changes a document. The
  op's final state is then that of the padding.

  Args:
    cu_seqlens: [..., N + 1] integers, `0, n_1, n_1 + n_2, ...` for N documents
      of n_i tokens. Empty documents are allowed, so the last boundary may be
      repeated to fill an array of fixed size.
    length: L, the number of tokens in the row, padding included; static.

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

  For reinforcement learning and streams: a token with a reset starts from zero.
  A reset at the first token drops the initial state; without a reset, the first
  token continues it.

  Args:
    resets: [..., L], booleans, or integers, where any number but 0 is a reset.

  Returns:
    [..., L] of int32.
  """
  resets = jnp.asarray(resets).astype(bool)
  return jnp.cumsum(resets, axis=-1, dtype=jnp.int32)


def continue_ids(ids: jax.Array, last: jax.Array) -> jax.Array:
  """Segment ids after a cut, for an op that continues the state at the cut.

  For sequences that run in several calls. The initial state of an op has id 0,
  so the segment that continues over the cut must have id 0 too:

      y1, state = op(x[:, :t], segment_ids=ids[:, :t])
      rest = continue_ids(ids[:, t:], ids[:, t - 1])
      y2, _ = op(x[:, t:], initial_state=state, segment_ids=rest)

  Together the calls give the results of the uncut call, for any cut. With
  `reverse` the initial state has the id of the last token, so the ids need no
  change. If a cut of a reverse run lies between two segments, pass no state.

  Args:
    ids: [..., L] integers after the cut.
    last: [...], the id of the token before the cut, numbered like `ids`.

  Returns:
    [..., L], with 0 for the segment that continues over the cut.
  """
  return jnp.asarray(ids) - jnp.asarray(last)[..., None]


class Masks(NamedTuple):
  """Which tokens and states are joined, in one chunk of C tokens (booleans).

  Attributes:
    pair: [C, C], token j <= i is joined to token i.
    entry: [C], the token is joined to the state before the chunk.
    exit: [C], the token is joined to the state after the chunk.
    through: [], the states before and after the chunk are joined.
  """

  pair: jax.Array | np.ndarray
  entry: jax.Array | np.ndarray
  exit: jax.Array | np.ndarray
  through: jax.Array | np.ndarray

  @property
  def constant(self) -> bool:
    """Whether these are `causal_masks`, which are the same for all chunks."""
    return isinstance(self.pair, np.ndarray)

  @property
  def previous(self) -> jax.Array:
    """[C], the token is joined to the token or state right before it."""
    return jnp.concatenate([self.entry[:1], jnp.diagonal(self.pair, offset=-1)])

  def cut(self, x: jax.Array) -> jax.Array:
    """Sets x [C, ...] to 0 at tokens that start a segment."""
    if self.constant:
      return x
    joined = jnp.expand_dims(self.previous, range(1, x.ndim))
    return jnp.where(joined, x, 0)


def starts(ids: jax.Array, before: jax.Array) -> jax.Array:
  """Where a segment starts: at each token whose id differs from the one before.

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
  """Counts the changes of the id up to each token.

  A segment is a run of equal ids, so two tokens are joined if and only if
  their counts are equal. The segment of `before` has the count 0.

  Args:
    ids: [..., L] integers.
    before: [..., 1], the id before the first token.

  Returns:
    [..., L] of int32.
  """
  return jnp.cumsum(starts(ids, before), axis=-1, dtype=jnp.int32)


def segment_masks(ids: jax.Array, before: jax.Array) -> Masks:
  """Masks of one chunk from its segment ids [C] and the id [] before it."""
  return masks_of(count_changes(ids, jnp.reshape(before, 1)))


def masks_of(changes: jax.Array) -> Masks:
  """Masks of one chunk from its `count_changes` [C], in any dtype."""
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


def joined_by_row(masks: Masks) -> jax.Array:
  """`previous` of all chunks, [B, n, C], from masks [n, B, ...] of ids."""
  joined = jax.vmap(jax.vmap(lambda one: one.previous))(masks)
  return jnp.swapaxes(joined, 0, 1)


def token_masks(masks: Masks) -> Callable[[jax.Array], Masks]:
  """Makes the masks of a single token, from its entry in `masks.previous`."""
  if masks.constant:
    return lambda joined: causal_masks(1)
  return lambda joined: segment_masks(jnp.zeros(1, bool), ~joined)
