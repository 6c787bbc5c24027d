"""Masks: which tokens of a chunk may talk, and to which states.

Computed once from the segment ids, so that packed documents, episode resets
and padding are right for every family at once. Without ids every token is
joined to every other and the masks are constants, which the compiler folds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


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
  ids = jnp.asarray(ids)
  before = jnp.asarray(before, ids.dtype)
  previous = jnp.concatenate([before, ids[..., :-1]], axis=-1)
  return jnp.cumsum(ids != previous, axis=-1, dtype=jnp.int32)


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
