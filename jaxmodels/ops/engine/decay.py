"""Decays between the tokens of a chunk, without cancellation or overflow.

The log decay from token j to token i is the sum of the log decays, all at most
0, of the tokens after j up to i. Here it is always a sum of these numbers,
computed by a matmul with a matrix of zeros and ones. It is never a difference
of longer sums, which would lose digits and need `exp(-sum)`, which overflows.
Every exponential is at most 1, and a decay of zero (log decay -inf) is exact.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine.platform import masked_block
from jaxmodels.ops.engine.segments import Masks

# exp(-1e4) is 0 even in float64. The number is finite, because -inf times the
# zeros of a mask would be NaN.
_ZERO_DECAY = -1e4


class Decay(NamedTuple):
  """Decay factors of a chunk, K of them or 1 for all keys.

  Attributes:
    entry: [C, K], from the start of the chunk through token i.
    exit: [C, K], from after token j to the end of the chunk.
    through: [K], over the whole chunk.
  """

  entry: jax.Array
  exit: jax.Array
  through: jax.Array


def decays(log_decay: jax.Array | None, k: jax.Array) -> str:
  """The end of a row's name in `AUTO`, which depends on the kind of decay.

  It is "", ", decay per head" or ", decay per key".

  Args:
    log_decay: None, [..., H] or [..., H, K].
    k: [..., H, K].
  """
  if log_decay is None:
    return ""
  return ", decay per key" if log_decay.ndim == k.ndim else ", decay per head"


def per_channel(log_decay: jax.Array | None, k: jax.Array) -> jax.Array | None:
  """Adds an axis to a decay per head, [..., H, 1]; returns others unchanged."""
  if log_decay is None or log_decay.ndim == k.ndim:
    return log_decay
  return log_decay[..., None]


def boundary_decay(
  log_decay: jax.Array | None, like: jax.Array, masks: Masks
) -> Decay:
  """Decays between each token and the edges of its chunk; 0 if not joined.

  Args:
    log_decay: [C, K] or [C, 1] (one for all keys), or None for no decay.
    like: an array [C, ...] that gives the size and dtype if there is no decay.
    masks: of the chunk.
  """
  if log_decay is None:
    entry = behind = jnp.ones_like(like[:, :1])
  else:
    entry = jnp.exp(_sum(_through(log_decay.shape[0]), log_decay))
    behind = jnp.exp(_sum(_behind(log_decay.shape[0]), log_decay))
  return Decay(
    entry=jnp.where(_column(masks.entry), entry, 0),
    exit=jnp.where(_column(masks.exit), behind, 0),
    through=jnp.where(masks.through, entry[-1], 0),
  )


def _column(mask: jax.Array | np.ndarray) -> Any:
  """A mask [C] as [C, 1]; the compiler of kernels turns numbers alone."""
  if isinstance(mask, np.ndarray):
    return mask[:, None]
  return mask.astype(jnp.float32)[:, None] > 0


class Ladder(NamedTuple):
  """Decays between the tokens of one block; `_ladder_decay` has its halves.

  Attributes:
    half: [log2 C, C, K], from the start of token t's half through token t if it
      is the later half, else from after token t to the end of the half.
  """

  half: jax.Array


class Blocks(NamedTuple):
  """Decays between the tokens of n blocks: see `_block_decay`.

  Attributes:
    start: [n, C / n, K], from the start of token i's block through token i.
    end: [n, C, K], from after token j to the start of each block.
    within: `Ladder` of arrays [n, ...].
  """

  start: jax.Array
  end: jax.Array
  within: Ladder


# Decays between any two tokens: none, one for all channels [C, C], or one per
# key or value channel.
PairDecay = None | jax.Array | Ladder | Blocks


def pair_decay(log_decay: jax.Array | None) -> PairDecay:
  """The exponentials that `scores` needs, computed once for several calls.

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
  """`sum_n q_in k_jn exp(sum_{j<t<=i} log_decay_tn)`, for joined j <= i.

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


def paired_scores(
  q: jax.Array, k: jax.Array, decay: jax.Array | Ladder | None, masks: Masks
) -> jax.Array:
  """`scores` of each of n queries with each of n keys, in one product.

  Args:
    q: [n, C, K].
    k: [n, C, K].
    decay: `pair_decay(log_decay)`, where a block is a whole chunk.
    masks: of the chunk.

  Returns:
    [n, n, C, C].
  """
  if isinstance(decay, Ladder):
    halves, later, _ = ladder(q.shape[1])
    x = jnp.where(later[:, None], q[None], k[None]) * decay.half[:, None]
    met = jnp.einsum("lmik,lnjk->lmnij", x, x)
    met = jnp.sum(jnp.where(halves[:, None, None], met, 0), 0)
    own = jnp.einsum("mik,nik->mni", q, k)[..., None]
    met += own * np.eye(q.shape[1], dtype=own.dtype)[None, None]
  else:
    met = jnp.einsum("mik,njk->mnij", q, k)
    met = met if decay is None else met * decay[None, None]
  return jnp.where(masks.pair[None, None], met, 0)


def decayed_scores(
  q: jax.Array, k: jax.Array, log_decay: jax.Array | None, masks: Masks
) -> jax.Array:
  """`scores`, for a single call with these decays."""
  return scores(q, k, pair_decay(log_decay), masks)


def strict_scores(
  q: jax.Array, k: jax.Array, decay: PairDecay, masks: Masks
) -> jax.Array:
  """`sum_n q_in k_jn exp(sum_{j<t<i} log_decay_tn)`, for joined j < i.

  For a query that reads the state before its own token: the token has neither
  decayed this state nor written to it.

  Args:
    q: [C, K].
    k: [C, K].
    decay: `pair_decay(log_decay)`.
    masks: of the chunk.

  Returns:
    [C, C], 0 where j >= i or token j is not joined to token i.
  """
  return strict(scores(before_own(q), k, decay, masks), masks)


def before_own(q: jax.Array) -> jax.Array:
  """Queries [C, K] whose `scores` become strict by `strict`."""
  # Token i reads what token i - 1 would read with the query of token i.
  return jnp.roll(q, -1, axis=0)


def strict(met: jax.Array, masks: Masks) -> jax.Array:
  """The strict scores [C, C] of q, from the scores of `before_own(q)`."""
  earlier = np.tri(met.shape[0], k=-1, dtype=bool) & masks.pair
  return jnp.where(earlier, jnp.roll(met, 1, axis=0), 0)


def strict_entry(decay: Decay, masks: Masks) -> jax.Array:
  """Decay from the start of the chunk to token i, without that of token i.

  Args:
    decay: `boundary_decay` of the chunk.
    masks: of the chunk.

  Returns:
    [C, K], 0 where token i is not joined to the state before the chunk.
  """
  before = jnp.roll(decay.entry, 1, axis=0)
  first = np.arange(before.shape[0])[:, None] == 0
  before = jnp.where(first, 1, before)
  return jnp.where(_column(masks.entry), before, 0)


def between(log_decay: jax.Array) -> jax.Array:
  """`sum_{j<t<=i} log_decay_t` [C, C], from a mask for each of the two bounds.

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
  """Decays between the tokens of one block, with a decay per key channel.

  A ladder: split the tokens in blocks of 2, 4, 8, ... tokens, each with two
  halves. For any two tokens there is exactly one block with one of them in each
  half. The decay between them is the decay from after the earlier token to the
  end of its half, times the decay from the start of the later half through the
  later token.
  """
  _, _, in_half = ladder(log_decay.shape[0])
  return Ladder(jnp.exp(_sum(in_half, log_decay)))


def _scores_within(q, k, decay: Ladder):
  """Decayed scores [C, C] of the tokens of one block."""
  halves, later, _ = ladder(q.shape[0])
  # A token is a query of the blocks in whose later half it is, else a key.
  met = jnp.where(later, q[None], k[None]) * decay.half
  met = jnp.sum(jnp.where(halves, met @ met.mT, 0), axis=0)
  return met + jnp.diag(jnp.sum(q * k, axis=-1))


def _block_decay(log_decay, block: int) -> Blocks:
  """Decays between blocks of `block` tokens, which divides C.

  The decay between tokens of two blocks is the product of three: from after the
  key to the end of its block, over the blocks between, and from the start of
  the query's block through the query.
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
  """Decayed scores [C, C] from blocks of tokens."""
  size, (count, block, _) = q.shape[0], decay.start.shape
  earlier = k[None] * decay.end
  q, k = (x.reshape(count, block, -1) for x in (q, k))
  met = (q * decay.start) @ earlier.mT
  met = met.reshape(count, block, count, block)
  within = jax.vmap(_scores_within)(q, k, decay.within)
  same = np.eye(count, dtype=bool)[:, None, :, None]
  return jnp.where(same, within[:, :, None], met).reshape(size, size)


def clip(log_decay: jax.Array) -> jax.Array:
  """Replaces -inf by -1e4, so that a matmul can apply a mask to log decays.

  Use it only if the sum is exponentiated as it is. If a large number is added
  first, such as the logarithm of an input gate, -1e4 does not act as -inf.
  """
  return jnp.maximum(log_decay, _ZERO_DECAY)


def _sum(mask: np.ndarray, log_decay: jax.Array) -> jax.Array:
  """Sums log decays [..., C, K] over the tokens of a mask [..., C]."""
  rows = mask.reshape(-1, mask.shape[-1])  # Of all masks in one product.
  total = jnp.matmul(
    rows.astype(log_decay.dtype),
    clip(log_decay),
    precision=lax.Precision.HIGHEST,  # Else a TPU rounds to bfloat16.
  )
  *batch, _, width = total.shape
  return total.reshape(*batch, *mask.shape[:-1], width)


def so_far(x: jax.Array) -> jax.Array:
  """Sums x [C, K] from the start of the chunk through each token."""
  return jnp.matmul(
    _through(x.shape[0]).astype(x.dtype), x, precision=lax.Precision.HIGHEST
  )


def _through(size: int) -> np.ndarray:
  """[C, C], t <= i: from the start of the chunk through token i."""
  return np.tri(size, dtype=bool)


def _behind(size: int) -> np.ndarray:
  """[C, C], t > j: from after token j to the end of the chunk."""
  return ~np.tri(size, dtype=bool)


def _blocks_between(count: int) -> np.ndarray:
  """[n, n, n], j < t < i: the blocks t between blocks i and j."""
  i, j, t = np.ogrid[:count, :count, :count]
  return (j < t) & (t < i)


def ladder(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Masks [log2 C, C, C | 1] of the ladder, of tokens i and j.

  The three masks: i is in the later half and j in the earlier half of a block;
  i is in the later half; the decay of j is between i and the other half.
  """
  i, j = np.arange(size)[:, None], np.arange(size)
  half = 2 ** np.arange(size.bit_length() - 1)[:, None, None]
  later = i // half % 2 == 1
  same = i // half == j // half
  halves = (i // half == j // half + 1) & later
  return halves, later, same & np.where(later, j <= i, j > i)
