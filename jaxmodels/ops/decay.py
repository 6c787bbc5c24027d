"""Decays between the tokens of a chunk, without a lost digit or an overflow.

The log decay between two tokens is a sum of non-positive numbers. It is added
up from pieces that lie between them, never subtracted from longer sums: that
would cost digits, and `exp(-sum)` overflows. The pieces come from a ladder:
cut the chunk in blocks of b = 1, 2, 4, ... tokens; of two neighbouring blocks
the decay between a token of the later and one of the earlier is

    prefix, from the later block's start through the later token
  + suffix, from behind the earlier token to the earlier block's end

and both grow by one addition when blocks pair up. Every exponential taken is
at most 1, and a decay of zero (log decay -inf) is as good as any other.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp


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


def halves(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """[C, ...] as the earlier and the later [m, size, ...] of paired blocks."""
  pairs = x.reshape(-1, 2, size, *x.shape[1:])
  return pairs[:, 0], pairs[:, 1]


def join(earlier: jax.Array, later: jax.Array) -> jax.Array:
  """Undoes `halves`."""
  pairs = jnp.stack([earlier, later], axis=1)
  return pairs.reshape(-1, *pairs.shape[3:])


def climb(
  log_decay: jax.Array,
) -> Iterator[tuple[int, jax.Array, jax.Array]]:
  """Climbs the ladder over log decays [C, ...], C a power of two.

  Yields:
    the block size b, and the sums [C, ...] over blocks of b tokens: prefix
    (from the block's start through the token) and suffix (from behind the
    token to the block's end), up to and including b = C.
  """
  prefix, suffix, size = log_decay, jnp.zeros_like(log_decay), 1
  while True:
    yield size, prefix, suffix
    if size == log_decay.shape[0]:
      return
    before, prefix_later = halves(prefix, size)
    suffix_earlier, suffix_later = halves(suffix, size)
    total_earlier, total_later = before[:, -1:], prefix_later[:, -1:]
    prefix = join(before, prefix_later + total_earlier)
    suffix = join(suffix_earlier + total_later, suffix_later)
    size *= 2


def stack_blocks(diagonal: jax.Array, lower: jax.Array) -> jax.Array:
  """Blocks [2m, b, b] and what lies lower left [m, b, b] to [m, 2b, 2b]."""
  zeros = jnp.zeros_like(lower)
  top = jnp.concatenate([diagonal[0::2], zeros], axis=-1)
  bottom = jnp.concatenate([lower, diagonal[1::2]], axis=-1)
  return jnp.concatenate([top, bottom], axis=-2)


def boundary_decay(log_decay: jax.Array | None, like: jax.Array) -> Decay:
  """Decays between each token and the edges of its chunk.

  Args:
    log_decay: [C, K] or [C, 1] (one for all keys), or None for no decay.
    like: an array [C, ...] that gives size and dtype where there is no decay.
  """
  if log_decay is None:
    ones = jnp.ones_like(like[:, :1])
    return Decay(ones, ones, ones[0])
  *_, (_, prefix, suffix) = climb(log_decay)
  return Decay(jnp.exp(prefix), jnp.exp(suffix), jnp.exp(prefix[-1]))


def decayed_scores(
  q: jax.Array, k: jax.Array, log_decay: jax.Array | None
) -> jax.Array:
  """`sum_n q_in k_jn exp(sum_{j<t<=i} log_decay_tn)` for j <= i, 0 above.

  Args:
    q: [C, K].
    k: [C, K].
    log_decay: [C, K] or [C, 1], or None; C a power of two.

  Returns:
    [C, C]; what stands above the diagonal has no meaning without decay.
  """
  if log_decay is None:
    return q @ k.T
  if log_decay.shape[-1] == 1:
    return (q @ k.T) * jnp.exp(_log_decay_between(log_decay[:, 0]))
  blocks = jnp.sum(q * k, axis=-1)[:, None, None]
  for size, prefix, suffix in climb(log_decay):
    if size == q.shape[0]:
      break
    _, later = halves(q * jnp.exp(prefix), size)
    earlier, _ = halves(k * jnp.exp(suffix), size)
    blocks = stack_blocks(blocks, later @ earlier.mT)
  return blocks[0]


def _log_decay_between(log_decay: jax.Array) -> jax.Array:
  """`sum_{j<t<=i} log_decay_t` [C, C] for j <= i, 0 above; of [C]."""
  blocks = jnp.zeros_like(log_decay)[:, None, None]
  for size, prefix, suffix in climb(log_decay):
    if size == log_decay.shape[0]:
      break
    _, later = halves(prefix, size)
    earlier, _ = halves(suffix, size)
    blocks = stack_blocks(blocks, later[:, :, None] + earlier[:, None, :])
  return blocks[0]
