"""Softmax over the keys that each query sees: at once, or in tiles.

A query sees the keys of its own segment, from its own token back to the edge of
the window.

The loop over tiles keeps the largest score so far and two sums scaled by it:
the sum of weighted values and the sum of weights (Milakov & Gimelshein 2018,
arXiv:1805.02867). The backward pass recomputes the scores and differentiates
the quotient of the two sums, so that memory is linear in L (Dao et al. 2022,
arXiv:2205.14135). It treats the maxima as constants, because they cancel in
the quotient; so it does not differentiate the loop that finds them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.checks import is_open

__all__ = [
  "Keys",
  "Queries",
  "Scoring",
  "Size",
  "attend",
  "attend_in_tiles",
  "merge",
  "split",
]

# Queries and keys per tile.
Size = tuple[int, int]


class Scoring(NamedTuple):
  """How scores become weights.

  Attributes:
    window: The number of tokens that a query sees, or None for all.
    softcap: c of c tanh(score / c), or None.
    sinks: [Hq], the score of a key without a value per query head, or None.
  """

  window: int | None
  softcap: float | None = None
  sinks: jax.Array | None = None


class Queries(NamedTuple):
  """Queries, and which keys they see.

  Attributes:
    q: [..., L, Hq, K].
    places: [L], the index of each query's own token among the keys.
    ids: [..., L] segment ids, or None if all queries and keys are in one
      segment.
  """

  q: jax.Array
  places: jax.Array
  ids: jax.Array | None


class Keys(NamedTuple):
  """Keys and values.

  Attributes:
    k: [..., N, H, K].
    v: [..., N, H, V].
    ids: [..., N] segment ids, or None if those of the queries are None.
  """

  k: jax.Array
  v: jax.Array
  ids: jax.Array | None


def attend(
  queries: Queries, parts: Sequence[Keys], scoring: Scoring
) -> jax.Array:
  """Computes all scores at once.

  Args:
    queries: Their own tokens must be among the keys, so that every query sees
      a key, and no row of the softmax is empty.
    parts: The keys in pieces, one after another; H divides Hq.
    scoring: The window and the options of the softmax.

  Returns:
    [..., L, Hq, V].
  """
  columns, start = [], 0
  for keys in parts:
    columns.append(_all_scores(queries, keys, scoring, start))
    start += keys.k.shape[-3]
  if scoring.sinks is not None:
    heads = columns[0].shape[-4:-2]
    sinks = _fit(scoring.sinks.reshape((*heads, 1, 1)), columns[0])
    columns.append(jnp.broadcast_to(sinks, (*columns[0].shape[:-1], 1)))
  weights = jax.nn.softmax(jnp.concatenate(columns, -1), -1)
  if scoring.sinks is not None:
    weights = weights[..., :-1]
  y, start = None, 0
  for keys in parts:
    own, start = weights, start + keys.k.shape[-3]
    if len(parts) > 1:
      own = own[..., start - keys.k.shape[-3] : start]
    more = jnp.einsum("...hgqp,...phv->...qhgv", own, keys.v)
    y = more if y is None else y + more
  assert y is not None
  return y.reshape((*queries.q.shape[:-1], y.shape[-1]))


def _all_scores(
  queries: Queries, keys: Keys, scoring: Scoring, start: int
) -> jax.Array:
  """Scores [..., H, Hq / H, L, N] of keys whose first place is `start`."""
  q, k = queries.q, keys.k
  heads = k.shape[-2]
  shape = (*q.shape[:-2], heads, q.shape[-2] // heads, q.shape[-1])
  scores = jnp.einsum("...qhgk,...phk->...hgqp", q.reshape(shape), k)
  scores = _capped(scores, scoring.softcap)
  places = start + jnp.arange(k.shape[-3])
  visible = _near(queries.places[:, None], places, scoring.window)
  if queries.ids is not None and keys.ids is not None:
    same = queries.ids[..., :, None] == keys.ids[..., None, :]
    visible = _fit(visible, same) & same
    visible = visible[..., None, None, :, :]
  # Mask before the softmax, so that neither pass computes exp(+large).
  return jnp.where(_fit(visible, scores), scores, -jnp.inf)


def attend_in_tiles(
  queries: Queries, keys: Keys, scoring: Scoring, size: Size
) -> jax.Array:
  """As `attend`, tile by tile; skips tiles in which no query sees a key.

  Args:
    queries: As for `attend`.
    keys: As for `attend`.
    scoring: As for `attend`.
    size: The largest number of queries, and of keys, per tile.

  Returns:
    [..., L, Hq, V].
  """
  # Replicated keys become varying before the loops. So their gradient is summed
  # over devices after the loops, not inside a tile, which some devices skip.
  queries, keys = _alike((queries, keys))
  *batch, length, q_heads, _ = queries.q.shape
  heads = keys.k.shape[-2]
  rows = _rows(queries, heads, size[0])
  # The loops need a hashable record, and sinks are no part of them.
  sinks, scoring = scoring.sinks, scoring._replace(sinks=None)
  y, total, top = _tiles(scoring, rows, _columns(keys, size[1]))
  if sinks is not None:
    group = q_heads // heads
    own = jnp.tile(sinks.reshape(heads, group), y.shape[-2] // group)
    # The share of the keys in the weight of the keys and the sink.
    above = jnp.log(total) + top - _fit(own[..., None], top)
    y = y * jax.nn.sigmoid(above)
  y = jnp.moveaxis(y, 0, -3)
  y = y.reshape(*y.shape[:-3], -1, q_heads // heads, y.shape[-1])
  y = jnp.moveaxis(y[..., :length, :, :], -4, -3)
  return y.reshape(*batch, length, q_heads, y.shape[-1])


# In tiles the axis of heads comes before that of tokens: one transposition
# serves all products. Query heads that share a key head are further rows of it.
# Masks are [..., H, rows, columns].


class _Rows(NamedTuple):
  """[n, ..., H, R, K] queries, [n, R, 1] places, [n, ..., 1, R, 1] ids."""

  q: jax.Array
  places: jax.Array
  ids: jax.Array | None


class _Columns(NamedTuple):
  """[m, ..., H, P, K] keys, values, [m, P] places, [m, ..., 1, 1, P] ids."""

  k: jax.Array
  v: jax.Array
  places: jax.Array
  ids: jax.Array | None


def _rows(queries: Queries, heads: int, size: int) -> _Rows:
  q, places, ids = queries
  group = q.shape[-2] // heads
  size = _even(q.shape[-3], size) * group
  q = q.reshape(*q.shape[:-2], heads, group, q.shape[-1])
  q = jnp.moveaxis(q, -4, -3)
  q = q.reshape(*q.shape[:-3], q.shape[-3] * group, q.shape[-1])
  # A query of padding repeats the last token and sees the same keys.
  places = split(jnp.repeat(places, group), -1, size)[:, :, None]
  if ids is not None:
    ids = split(jnp.repeat(ids, group, -1), -1, size)[..., None, :, None]
  return _Rows(split(q, -2, size), places, ids)


def _columns(keys: Keys, size: int) -> _Columns:
  k, v, ids = keys
  size = _even(k.shape[-3], size)
  # A key of padding comes after all queries.
  k, v = (split(jnp.moveaxis(x, -2, -3), -2, size) for x in (k, v))
  if ids is not None:
    ids = split(ids, -1, size)[..., None, None, :]
  places = jnp.arange(k.shape[0] * size).reshape(-1, size)
  return _Columns(k, v, places, ids)


def _even(length: int, size: int) -> int:
  """The size of equal pieces: as few as possible, of at most `size` each."""
  if is_open(length):
    return size
  return -(-length // -(-length // size))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _tiles(
  scoring: Scoring, rows: _Rows, columns: _Columns
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Outputs [n, ..., H, R, V]; sums of weights and maxima [n, ..., H, R, 1]."""

  def some_rows(_: None, own: _Rows) -> tuple[None, Any]:
    def tile(sums: Any, others: _Columns) -> tuple[Any, None]:
      def add(sums: Any) -> Any:
        values, total, top = sums
        scores = _scores(own, others, scoring)
        above = jnp.maximum(top, jnp.max(scores, -1, keepdims=True))
        less = jnp.exp(top - above)
        more = _sums(scores, above, others.v)
        return less * values + more[0], less * total + more[1], above

      seen = _seen(own, others, scoring.window)
      return lax.cond(seen, add, lambda x: x, sums), None

    zero = jnp.zeros_like(own.q[..., :1])
    # Finite, so that a row that sees no key of a tile keeps its sums.
    top = jnp.full_like(zero, jnp.finfo(zero.dtype).min)
    values = _wide(zero, columns.v)
    (values, total, top), _ = lax.scan(tile, (values, zero, top), columns)
    return None, (values / total, total, top)

  return lax.scan(some_rows, None, rows)[1]


@_tiles.defjvp
def _(
  scoring: Scoring,
  primals: tuple[_Rows, _Columns],
  tangents: tuple[_Rows, _Columns],
) -> tuple[Any, Any]:
  rows, columns = primals
  y, total, top = _tiles(scoring, rows, columns)

  def sums(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
    return _sums_held(
      top, rows._replace(q=q), columns._replace(k=k, v=v), scoring
    )

  moved = (tangents[0].q, tangents[1].k, tangents[1].v)
  _, (values, weights) = jax.jvp(sums, (rows.q, columns.k, columns.v), moved)
  slope = (values - y * weights) / total
  return (y, total, top), (slope, weights, jnp.zeros_like(top))


def _sums_held(
  top: jax.Array, rows: _Rows, columns: _Columns, scoring: Scoring
) -> tuple[jax.Array, jax.Array]:
  """Sums of weighted values and of weights, for given maxima.

  The inner loop is over rows. It completes the gradients of a tile's keys and
  values, and only the gradient of the queries accumulates in memory.
  """

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def tile(own: _Rows, top: jax.Array, others: _Columns) -> Any:
    def compute(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
      scores = _scores(own._replace(q=q), others._replace(k=k), scoring)
      return _sums(scores, top, v)

    def leave(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
      del q, k
      zero = jnp.zeros_like(top)
      return _wide(zero, v), zero

    seen = _seen(own, others, scoring.window)
    return lax.cond(seen, compute, leave, own.q, others.k, others.v)

  def some_columns(sums: Any, others: _Columns) -> tuple[Any, None]:
    def step(_: None, own: tuple[_Rows, jax.Array]) -> tuple[None, Any]:
      return None, tile(*own, others)

    _, more = lax.scan(step, None, (rows, top))
    return jax.tree.map(jnp.add, sums, more), None

  zero = jnp.zeros_like(top)
  return lax.scan(some_columns, (_wide(zero, columns.v), zero), columns)[0]


def _wide(column: jax.Array, v: jax.Array) -> jax.Array:
  """Broadcasts [..., R, 1] to [..., R, V]."""
  return jnp.broadcast_to(column, (*column.shape[:-1], v.shape[-1]))


def _sums(
  scores: jax.Array, top: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  weights = jnp.exp(scores - top)
  return weights @ v, jnp.sum(weights, -1, keepdims=True)


def _scores(own: _Rows, others: _Columns, scoring: Scoring) -> jax.Array:
  """Scores [..., H, R, P], minus infinity where the query sees no such key.

  Masked before the exponential, so that no pass computes exp(+large).
  """
  scores = jnp.einsum("...rk,...pk->...rp", own.q, others.k)
  scores = _capped(scores, scoring.softcap)
  visible = _near(own.places, others.places, scoring.window)
  if own.ids is not None and others.ids is not None:
    same = own.ids == others.ids
    visible = _fit(visible, same) & same
  return jnp.where(_fit(visible, scores), scores, -jnp.inf)


def _capped(scores: jax.Array, softcap: float | None) -> jax.Array:
  """Scores between -softcap and softcap, close to unchanged near 0."""
  return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _seen(own: _Rows, others: _Columns, window: int | None) -> jax.Array:
  """Whether any of these queries may see any of these keys, by place."""
  seen = others.places[0] <= own.places[-1, 0]
  if window is not None:
    seen = seen & (own.places[0, 0] - others.places[-1] < window)
  return seen


def _near(
  places: jax.Array, others: jax.Array, window: int | None
) -> jax.Array:
  """[R, P] from places [R, 1] and [P]: not later, and inside the window."""
  distance = places - others[None, :]
  near = distance >= 0
  return near if window is None else near & (distance < window)


def _fit(mask: jax.Array, array: jax.Array) -> jax.Array:
  """Adds axes to a mask: strict rank promotion needs equal ranks."""
  return jnp.expand_dims(mask, range(array.ndim - mask.ndim))


def _alike(tree: Any) -> Any:
  """Makes all arrays vary over the same mesh axes, as a loop's carry must."""

  def varying(x: jax.Array) -> frozenset[Any]:
    return jax.typeof(x).manual_axis_type.varying

  axes = frozenset().union(*map(varying, jax.tree.leaves(tree)))

  def cast(x: jax.Array) -> jax.Array:
    missing = tuple(axes - varying(x))
    return lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(cast, tree)


def split(array: jax.Array, axis: int, size: int) -> jax.Array:
  """Splits an axis in pieces, along a new first axis.

  Copies of the last entry fill the last piece.
  """
  axis = axis % array.ndim
  length = array.shape[axis]
  count = -(-length // size)
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, count * size - length)
  padded = jnp.pad(array, widths, mode="edge")
  shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
  return jnp.moveaxis(padded.reshape(shape), axis, 0)


def merge(chunks: jax.Array, length: int) -> jax.Array:
  """Merges [n, ..., C, H, V] to [..., L, H, V]."""
  y = jnp.moveaxis(chunks, 0, -4)
  shape = (*y.shape[:-4], y.shape[-4] * y.shape[-3], *y.shape[-2:])
  return y.reshape(shape)[..., :length, :, :]
