"""Decays between the tokens of a chunk, without a lost digit or an overflow.

The log decay from token j to token i is the sum of the non-positive numbers
between them. Here it is always added up from those numbers, by a matmul with
a matrix of zeros and ones that says which lie between, and never subtracted
from longer sums: that would cost digits, and `exp(-sum)` overflows. Every
exponential is at most 1, and a decay of zero (log decay -inf) is as good as
any other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine.platform import masked_block
from jaxmodels.ops.engine.segments import Masks

# exp of this is 0 in float64 too; sums of it are finite where -inf times the
# zeros of a mask is not.
_ZERO_DECAY = -1e4


class Decay(NamedTuple):
  """Decay factors of a chunk, K of them or 1 for all keys.

  Attributes:
    entry: [C, K], from the entering state through token i.
    exit: [C, K], from behind token j to the leaving state.
    through: [K], over the whole chunk.
  """

  entry: jax.Array
  exit: jax.Array
  through: jax.Array


def decays(log_decay: jax.Array | None, k: jax.Array) -> str:
  """How a row of `auto` ends: "", ", decay per head" or ", decay per key".

  Args:
    log_decay: None, [..., H] or [..., H, K].
    k: [..., H, K].
  """
  if log_decay is None:
    return ""
  return ", decay per key" if log_decay.ndim == k.ndim else ", decay per head"


def per_channel(log_decay: jax.Array | None, k: jax.Array) -> jax.Array | None:
  """A decay per head as one for all keys, [..., H, 1]; others as they are."""
  if log_decay is None or log_decay.ndim == k.ndim:
    return log_decay
  return log_decay[..., None]


def boundary_decay(
  log_decay: jax.Array | None, like: jax.Array, masks: Masks
) -> Decay:
  """Decays between each token and the edges of its chunk; 0 where not joined.

  Args:
    log_decay: [C, K] or [C, 1] (one for all keys), or None for no decay.
    like: an array [C, ...] that gives size and dtype where there is no decay.
    masks: of the chunk.
  """
  if log_decay is None:
    entry = behind = jnp.ones_like(like[:, :1])
  else:
    entry = jnp.exp(_sum(_through(log_decay.shape[0]), log_decay))
    behind = jnp.exp(_sum(_behind(log_decay.shape[0]), log_decay))
  return Decay(
    entry=jnp.where(masks.entry[:, None], entry, 0),
    exit=jnp.where(masks.exit[:, None], behind, 0),
    through=jnp.where(masks.through, entry[-1], 0),
  )


class Ladder(NamedTuple):
  """Decays between few tokens, [log2 C, C, K] each: see `_ladder_decay`.

  Attributes:
    start: from the start of token i's half of a block through token i.
    end: from behind token j to the end of its half of a block.
  """

  start: jax.Array
  end: jax.Array


class Blocks(NamedTuple):
  """Decays between the tokens of n blocks: see `_block_decay`.

  Attributes:
    start: [n, C / n, K], from the start of token i's block through token i.
    end: [n, C, K], from behind token j to the start of each block.
    within: `Ladder` of [n, ...] each.
  """

  start: jax.Array
  end: jax.Array
  within: Ladder


# Between any two tokens: none, one for all keys [C, C], or one per key channel.
PairDecay = None | jax.Array | Ladder | Blocks


def pair_decay(log_decay: jax.Array | None) -> PairDecay:
  """The exponentials of `scores`, to be made once for several of them.

  Args:
    log_decay: [C, K] or [C, 1] (one for all keys), or None for no decay.
  """
  if log_decay is None:
    return None
  size, width = log_decay.shape
  if width == 1:
    return jnp.exp(between(clip(log_decay[:, 0])))
  block = masked_block(size)
  if block == size:
    return _ladder_decay(log_decay)
  return _block_decay(log_decay, block)


def scores(
  q: jax.Array, k: jax.Array, decay: PairDecay, masks: Masks
) -> jax.Array:
  """`sum_n q_in k_jn exp(sum_{j<t<=i} log_decay_tn)`, of joined j <= i.

  Args:
    q: [C, K].
    k: [C, K].
    decay: `pair_decay(log_decay)`.
    masks: of the chunk.

  Returns:
    [C, C], 0 where token j is not joined to token i.
  """
  if decay is None:
    met = q @ k.T
  elif isinstance(decay, Ladder):
    met = _scores_within(q, k, decay)
  elif isinstance(decay, Blocks):
    met = _scores_of_blocks(q, k, decay)
  else:
    met = (q @ k.T) * decay
  return jnp.where(masks.pair, met, 0)


def decayed_scores(
  q: jax.Array, k: jax.Array, log_decay: jax.Array | None, masks: Masks
) -> jax.Array:
  """`scores` where there is only one of them."""
  return scores(q, k, pair_decay(log_decay), masks)


def strict_scores(
  q: jax.Array, k: jax.Array, decay: PairDecay, masks: Masks
) -> jax.Array:
  """`sum_n q_in k_jn exp(sum_{j<t<i} log_decay_tn)`, of joined j < i.

  For a query that reads the state before its own token, which has neither
  decayed nor been written by it.

  Args:
    q: [C, K].
    k: [C, K].
    decay: `pair_decay(log_decay)`.
    masks: of the chunk.

  Returns:
    [C, C], 0 where j >= i or token j is not joined to token i.
  """
  # What q of token i reads is what token i - 1 would read with it.
  met = scores(jnp.roll(q, -1, axis=0), k, decay, masks)
  earlier = np.tri(q.shape[0], k=-1, dtype=bool) & masks.pair
  return jnp.where(earlier, jnp.roll(met, 1, axis=0), 0)


def strict_entry(decay: Decay, masks: Masks) -> jax.Array:
  """Decay from the entering state up to token i, without that of token i.

  Args:
    decay: `boundary_decay` of the chunk.
    masks: of the chunk.

  Returns:
    [C, K], 0 where token i is not joined to the entering state.
  """
  before = jnp.roll(decay.entry, 1, axis=0)
  first = np.arange(before.shape[0])[:, None] == 0
  before = jnp.where(first, 1, before)
  return jnp.where(masks.entry[:, None], before, 0)


def between(log_decay: jax.Array) -> jax.Array:
  """`sum_{j<t<=i} log_decay_t` [C, C]: i counts t <= i, j counts t > j.

  Args:
    log_decay: [C], finite.
  """
  size = log_decay.shape[0]
  terms = jnp.where(_through(size), log_decay[None, :], 0)
  return jnp.matmul(
    terms,
    _behind(size).T.astype(terms.dtype),
    precision=lax.Precision.HIGHEST,
  )


def _ladder_decay(log_decay) -> Ladder:
  """Decays of few tokens with a decay per key channel.

  A ladder: cut the tokens in blocks of 1, 2, 4, ...; any two tokens lie once
  in neighbouring halves of a block, and the decay between them is that from
  the later half's start to the one times that from the other to the earlier
  half's end.
  """
  _, from_start, to_end = _ladder(log_decay.shape[0])
  return Ladder(
    jnp.exp(_sum(from_start, log_decay)), jnp.exp(_sum(to_end, log_decay))
  )


def _scores_within(q, k, decay: Ladder):
  """Decayed scores [C, C] of few tokens."""
  halves, _, _ = _ladder(q.shape[0])
  met = (q[None] * decay.start) @ (k[None] * decay.end).mT
  met = jnp.sum(jnp.where(halves, met, 0), axis=0)
  return met + jnp.diag(jnp.sum(q * k, axis=-1))


def _block_decay(log_decay, block: int) -> Blocks:
  """Decays of blocks of few tokens, C a multiple of them.

  The decay between tokens of two blocks is that from the key to its block's
  end, those of the blocks between, and that from the query's block's start.
  """
  size, width = log_decay.shape
  blocks = log_decay.reshape(-1, block, width)
  total = jnp.sum(clip(blocks), axis=1)
  skipped = jnp.tensordot(
    _blocks_between(size // block).astype(total.dtype),
    total,
    axes=1,
    precision=lax.Precision.HIGHEST,
  )
  to_end = _sum(_behind(block), blocks)[None] + skipped[:, :, None]
  return Blocks(
    start=jnp.exp(_sum(_through(block), blocks)),
    end=jnp.exp(to_end).reshape(-1, size, width),
    within=jax.vmap(_ladder_decay)(blocks),
  )


def _scores_of_blocks(q, k, decay: Blocks):
  """Decayed scores [C, C] from blocks of few tokens."""
  size, (count, block, _) = q.shape[0], decay.start.shape
  earlier = k[None] * decay.end
  q, k = (x.reshape(count, block, -1) for x in (q, k))
  met = (q * decay.start) @ earlier.mT
  met = met.reshape(count, block, count, block)
  within = jax.vmap(_scores_within)(q, k, decay.within)
  same = np.eye(count, dtype=bool)[:, None, :, None]
  return jnp.where(same, within[:, :, None], met).reshape(size, size)


def clip(log_decay: jax.Array) -> jax.Array:
  """Log decays with -inf made finite, so that masks can be matmuls.

  Only for what is then an exponential: where something else is added to the
  sum before, such as the logarithm of an input gate, -1e4 is not a zero.
  """
  return jnp.maximum(log_decay, _ZERO_DECAY)


def _sum(mask: np.ndarray, log_decay: jax.Array) -> jax.Array:
  """Sums log decays [..., C, K] over the tokens that a mask [..., C] names."""
  return jnp.matmul(
    mask.astype(log_decay.dtype),
    clip(log_decay),
    precision=lax.Precision.HIGHEST,  # Or a TPU rounds them to bfloat16.
  )


def _through(size: int) -> np.ndarray:
  """[C, C], t <= i: from the start through token i."""
  return np.tri(size, dtype=bool)


def _behind(size: int) -> np.ndarray:
  """[C, C], t > j: from behind token j to the end."""
  return ~np.tri(size, dtype=bool)


def _blocks_between(count: int) -> np.ndarray:
  """[n, n, n], j < t < i: the blocks t between blocks i and j."""
  i, j, t = np.ogrid[:count, :count, :count]
  return (j < t) & (t < i)


def _ladder(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Masks [log2 C, C, C] of the ladder: pairs (i, j), and sums over t.

  Pairs with i in the later half of the block where j is in the earlier; t in
  i's half and not behind i; t in j's half and behind j.
  """
  i, j = np.arange(size)[:, None], np.arange(size)
  half = 2 ** np.arange(size.bit_length() - 1)[:, None, None]
  same = i // half == j // half
  halves = (i // half == j // half + 1) & (i // half % 2 == 1)
  return halves, same & (j <= i), same & (j > i)
