"""Softmax over listed keys: each query sees a few keys near it, on both sides.

A rule lists the places that a query sees along one axis of a grid. A sequence
is a grid of one column (1-D), or of several columns, row by row (2-D). Each
segment is a grid of its own, and its last row may be incomplete. In 2-D a query
sees every listed row at every listed column.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.attention.tiles import split
from jaxmodels.ops.engine import halo, segments
from jaxmodels.ops.engine.checks import at_most
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.platform import wide

__all__ = ["Rule", "attend_nearby", "blocks_with_halo", "neighborhood"]

# Queries per chunk of a long sequence: only their keys are copied at a time.
_CHUNK = 128


class _Seen(NamedTuple):
  """Along one axis: places, whether they exist, distances from the lowest."""

  places: jax.Array
  exist: jax.Array
  offsets: jax.Array


class Rule(NamedTuple):
  """What a query sees along one axis.

  Attributes:
    seen: `(place [..., 1], size [..., 1]) -> _Seen` of [..., M].
    offsets: The number of different offsets: the size of a table of biases.
  """

  seen: Callable[[jax.Array, jax.Array], _Seen]
  offsets: int


def neighborhood(kernel_width: int, dilation: int) -> Rule:
  """The `kernel_width` nearest places whose distance the dilation divides.

  The window is centred on the query, and shifted at the edges, so that every
  query sees the same number of places where there are so many (Hassani et al.
  2022, arXiv:2204.07143; with dilation Hassani & Shi 2022, arXiv:2209.15001).
  """

  def seen(place: jax.Array, size: jax.Array) -> _Seen:
    first, own = place % dilation, place // dilation
    count = (size - first + dilation - 1) // dilation
    low = jnp.clip(
      own - kernel_width // 2, 0, jnp.maximum(count - kernel_width, 0)
    )
    member = low + _counted(kernel_width, place)
    offsets = (member - own + kernel_width - 1).clip(0, 2 * kernel_width - 2)
    return _Seen(first + member * dilation, member < count, offsets)

  return Rule(seen, 2 * kernel_width - 1)


def blocks_with_halo(block_size: int, margin: int) -> Rule:
  """The places of the query's block, and `margin` places on both sides of it.

  Vaswani et al. 2021, arXiv:2103.12731.
  """

  def seen(place: jax.Array, size: jax.Array) -> _Seen:
    low = place // block_size * block_size - margin
    member = low + _counted(block_size + 2 * margin, place)
    offsets = member - place + block_size + margin - 1
    return _Seen(member, (member >= 0) & (member < size), offsets)

  return Rule(seen, 2 * (block_size + margin) - 1)


@by_letters(
  "B L H V",
  q="B L H K",
  k="B L H K",
  v="B L H V",
  bias="H R C",
  segment_ids="B L",
)
def attend_nearby(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  rule: Rule,
  columns: int | None,
  bias: jax.Array,
  *,
  segment_ids: jax.Array | None,
  axis_name: str | None,
) -> jax.Array:
  """Softmax attention to the tokens that a rule lists.

  Copies the keys of a chunk of queries at a time, so that memory grows linearly
  with L and work by the number of listed keys per query. On a sharded sequence
  every device gathers all keys and values.

  Args:
    q: [B, L, H, K], with its scale.
    k: [B, L, H, K].
    v: [B, L, H, V].
    rule: What a query sees along an axis.
    columns: Columns of the grid, or None for a sequence.
    bias: [H, R, C], added to scores by the offsets of rows and columns; C is 1
      without columns.
    segment_ids: [B, L] or None.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    y [B, L, H, V] in the dtype of v; the softmax is float32 or wider.
  """
  length, out = q.shape[1], v.dtype
  dtype = wide(q, k, v)
  q, k, v, bias = (x.astype(dtype) for x in (q, k, v, bias))
  if axis_name is not None:
    before = halo.rank(axis_name, False) * length
    k, v = (halo.gather(x, 1, axis_name, False) for x in (k, v))
    if segment_ids is not None:
      segment_ids = halo.gather(segment_ids, 1, axis_name, False)
  starts, ends = _bounds(segment_ids, k)
  index = jnp.broadcast_to(jnp.arange(k.shape[1])[None], starts.shape)
  parts: tuple[jax.Array, ...] = (index, starts, ends)
  if axis_name is not None:
    parts = tuple(lax.dynamic_slice_in_dim(x, before, length, 1) for x in parts)

  @jax.checkpoint
  def attend(queries: tuple[jax.Array, ...]) -> jax.Array:
    own, *places = queries
    return _attend(own, k, v, rule, columns, bias, *places)

  queries = (q, *parts)
  if at_most(length, _CHUNK):
    return attend(queries).astype(out)
  chunks = tuple(split(x, 1, _CHUNK) for x in queries)
  y = jnp.moveaxis(lax.map(attend, chunks), 0, 1)
  y = y.reshape((y.shape[0], -1, *y.shape[3:]))
  return y[:, :length].astype(out)


def _attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  rule: Rule,
  columns: int | None,
  bias: jax.Array,
  index: jax.Array,
  starts: jax.Array,
  ends: jax.Array,
) -> jax.Array:
  """The outputs of some queries, from the places [B, C] of their tokens."""
  across = columns or 1
  place, size = (index - starts)[..., None], (ends - starts)[..., None]
  rows = rule.seen(place // across, (size + across - 1) // across)
  if columns is None:
    listed, exist = rows.places, rows.exist
    added = bias[:, :, 0].T[rows.offsets]
  else:
    near = rule.seen(place % across, jnp.full_like(size, across))
    listed = _pairs(rows.places * across, near.places, jnp.add)
    exist = _pairs(rows.exist, near.exist, jnp.logical_and)
    offsets = _pairs(rows.offsets * bias.shape[2], near.offsets, jnp.add)
    added = bias.reshape((bias.shape[0], -1)).T[offsets]
  exist = exist & (listed < size)
  listed = jnp.where(exist, listed + starts[..., None], index[..., None])
  batch = jnp.arange(k.shape[0])[:, None, None]
  scores = jnp.einsum("bchk,bcmhk->bcmh", q, k[batch, listed]) + added
  scores = jnp.where(exist[..., None], scores, -jnp.inf)
  weights = jax.nn.softmax(scores, 2)
  return jnp.einsum("bcmh,bcmhv->bchv", weights, v[batch, listed])


def _pairs(
  rows: jax.Array, columns: jax.Array, join: Callable[..., jax.Array]
) -> jax.Array:
  """Joins every row with every column: [..., M] and [..., N] to [..., M N]."""
  both = join(rows[..., :, None], columns[..., None, :])
  return both.reshape((*both.shape[:-2], -1))


def _counted(count: int, like: jax.Array) -> jax.Array:
  """0, 1, ..., with the rank and dtype of `like`."""
  numbers = jnp.arange(count, dtype=like.dtype)
  return jnp.expand_dims(numbers, range(like.ndim - 1))


def _bounds(ids: jax.Array | None, k: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first token of each token's segment, and the one after the last."""
  shape = k.shape[:2]
  count = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
  if ids is None:
    return jnp.zeros_like(count), jnp.full_like(count, shape[1])
  fresh = segments.starts(ids, ids[:, :1] - 1)
  start = lax.cummax(jnp.where(fresh, count, 0), axis=1)
  final = jnp.concatenate([fresh[:, 1:], jnp.ones_like(fresh[:, :1])], 1)
  ends = jnp.where(final, count + 1, shape[1])
  return start, lax.cummin(ends, axis=1, reverse=True)
