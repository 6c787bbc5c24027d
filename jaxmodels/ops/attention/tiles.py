"""Softmax over the keys that each query sees: at once, or in tiles.

A query sees the keys of its segment up to its own, as far back as the window
reaches.

The loop over tiles carries the largest score so far and two sums that it
scales, of weighted values and of weights (Milakov & Gimelshein 2018,
arXiv:1805.02867). The gradient is that of the quotient of both sums, from scores
that are computed again, so that memory is linear in L (Dao et al. 2022,
arXiv:2205.14135). In the gradient the maxima are constants: they scale both
sums, so their own gradient cancels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.checks import is_open

__all__ = [
  "Keys",
  "Queries",
  "Size",
  "attend",
  "attend_in_tiles",
  "merge",
  "split",
]

# Queries and keys of a tile.
Size = tuple[int, int]


class Queries(NamedTuple):
  """Queries, and which keys they see.

  Attributes:
    q: [..., L, Hq, K].
    places: [L], where among the keys each one's own token is.
    ids: [..., L] segments, or None where all are joined to all keys.
  """

  q: jax.Array
  places: jax.Array
  ids: jax.Array | None


class Keys(NamedTuple):
  """Keys and values.

  Attributes:
    k: [..., N, H, K].
    v: [..., N, H, V].
    ids: [..., N] segments, or None as those of the queries.
  """

  k: jax.Array
  v: jax.Array
  ids: jax.Array | None


def attend(queries: Queries, keys: Keys, window: int | None) -> jax.Array:
  """All scores at once.

  Args:
    queries: Their own tokens are among the keys, so that every one has
      something to see and the softmax never meets an empty row.
    keys: H divides Hq.
    window: How many tokens a query sees, or None for all.

  Returns:
    [..., L, Hq, V].
  """
  q, k, v = queries.q, keys.k, keys.v
  heads = k.shape[-2]
  shape = (*q.shape[:-2], heads, q.shape[-2] // heads, q.shape[-1])
  scores = jnp.einsum("...qhgk,...phk->...hgqp", q.reshape(shape), k)
  places = jnp.arange(k.shape[-3])
  visible = _near(queries.places[:, None], places, window)
  if queries.ids is not None and keys.ids is not None:
    same = queries.ids[..., :, None] == keys.ids[..., None, :]
    visible = _fit(visible, same) & same
    visible = visible[..., None, None, :, :]
  # Masked before the softmax, so that neither pass sees exp(+large).
  scores = jnp.where(_fit(visible, scores), scores, -jnp.inf)
  weights = jax.nn.softmax(scores, -1)
  y = jnp.einsum("...hgqp,...phv->...qhgv", weights, v)
  return y.reshape((*q.shape[:-1], v.shape[-1]))


def attend_in_tiles(
  queries: Queries, keys: Keys, window: int | None, size: Size
) -> jax.Array:
  """The same, tile by tile of the scores, without those that no query sees.

  Args:
    queries: As for `attend`.
    keys: As for `attend`.
    window: As for `attend`.
    size: Of a tile, at most: queries, and keys.

  Returns:
    [..., L, Hq, V].
  """
  # Keys that all devices share are made each one's own before the loops. The
  # gradient is then summed over devices after them, not in a tile, which some
  # devices pass over.
  queries, keys = _alike((queries, keys))
  *batch, length, q_heads, _ = queries.q.shape
  heads = keys.k.shape[-2]
  rows = _rows(queries, heads, size[0])
  y, *_ = _tiles(window, rows, _columns(keys, size[1]))
  y = jnp.moveaxis(y, 0, -3)
  y = y.reshape(*y.shape[:-3], -1, q_heads // heads, y.shape[-1])
  y = jnp.moveaxis(y[..., :length, :, :], -4, -3)
  return y.reshape(*batch, length, q_heads, y.shape[-1])


# In tiles heads come first, once for all products, and the heads of a group
# are further rows of their key's. Masks are of [..., H, rows, columns].


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
  # A padded query stands where the last token does, and sees what it sees.
  places = split(jnp.repeat(places, group), -1, size)[:, :, None]
  if ids is not None:
    ids = split(jnp.repeat(ids, group, -1), -1, size)[..., None, :, None]
  return _Rows(split(q, -2, size), places, ids)


def _columns(keys: Keys, size: int) -> _Columns:
  k, v, ids = keys
  size = _even(k.shape[-3], size)
  # A padded key lies behind all queries.
  k, v = (split(jnp.moveaxis(x, -2, -3), -2, size) for x in (k, v))
  if ids is not None:
    ids = split(ids, -1, size)[..., None, None, :]
  places = jnp.arange(k.shape[0] * size).reshape(-1, size)
  return _Columns(k, v, places, ids)


def _even(length: int, size: int) -> int:
  """Of pieces of at most `size`, all alike, as few as there must be."""
  if is_open(length):
    return size
  return -(-length // -(-length // size))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _tiles(
  window: int | None, rows: _Rows, columns: _Columns
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """[n, ..., H, R, V], and [n, ..., H, R, 1] sums of weights, and maxima."""

  def some_rows(_: None, own: _Rows) -> tuple[None, Any]:
    def tile(sums: Any, others: _Columns) -> tuple[Any, None]:
      def add(sums: Any) -> Any:
        values, total, top = sums
        scores = _scores(own, others, window)
        above = jnp.maximum(top, jnp.max(scores, -1, keepdims=True))
        less = jnp.exp(top - above)
        more = _sums(scores, above, others.v)
        return less * values + more[0], less * total + more[1], above

      return lax.cond(_seen(own, others, window), add, lambda x: x, sums), None

    zero = jnp.zeros_like(own.q[..., :1])
    # Finite: a row that sees nothing of a tile keeps what it has.
    top = jnp.full_like(zero, jnp.finfo(zero.dtype).min)
    values = _wide(zero, columns.v)
    (values, total, top), _ = lax.scan(tile, (values, zero, top), columns)
    return None, (values / total, total, top)

  return lax.scan(some_rows, None, rows)[1]


@_tiles.defjvp
def _(
  window: int | None,
  primals: tuple[_Rows, _Columns],
  tangents: tuple[_Rows, _Columns],
) -> tuple[Any, Any]:
  rows, columns = primals
  y, total, top = _tiles(window, rows, columns)

  def sums(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
    return _sums_held(
      top, rows._replace(q=q), columns._replace(k=k, v=v), window
    )

  moved = (tangents[0].q, tangents[1].k, tangents[1].v)
  _, (values, weights) = jax.jvp(sums, (rows.q, columns.k, columns.v), moved)
  slope = (values - y * weights) / total
  return (y, total, top), (slope, weights, jnp.zeros_like(top))


def _sums_held(
  top: jax.Array, rows: _Rows, columns: _Columns, window: int | None
) -> tuple[jax.Array, jax.Array]:
  """Sums of weighted values and of weights, with the maxima given.

  The loop over rows is the inner one: then the gradients of keys and values
  are complete after it, and only that of the queries is added up in memory.
  """

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def tile(own: _Rows, top: jax.Array, others: _Columns) -> Any:
    def compute(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
      scores = _scores(own._replace(q=q), others._replace(k=k), window)
      return _sums(scores, top, v)

    def leave(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
      del q, k
      zero = jnp.zeros_like(top)
      return _wide(zero, v), zero

    seen = _seen(own, others, window)
    return lax.cond(seen, compute, leave, own.q, others.k, others.v)

  def some_columns(sums: Any, others: _Columns) -> tuple[Any, None]:
    def step(_: None, own: tuple[_Rows, jax.Array]) -> tuple[None, Any]:
      return None, tile(*own, others)

    _, more = lax.scan(step, None, (rows, top))
    return jax.tree.map(jnp.add, sums, more), None

  zero = jnp.zeros_like(top)
  return lax.scan(some_columns, (_wide(zero, columns.v), zero), columns)[0]


def _wide(column: jax.Array, v: jax.Array) -> jax.Array:
  """[..., R, 1] as [..., R, V]."""
  return jnp.broadcast_to(column, (*column.shape[:-1], v.shape[-1]))


def _sums(
  scores: jax.Array, top: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  weights = jnp.exp(scores - top)
  return weights @ v, jnp.sum(weights, -1, keepdims=True)


def _scores(own: _Rows, others: _Columns, window: int | None) -> jax.Array:
  """[..., H, R, P], minus infinity where a key is not seen.

  Masked before the exponential, so that no pass sees exp(+large).
  """
  scores = jnp.einsum("...rk,...pk->...rp", own.q, others.k)
  visible = _near(own.places, others.places, window)
  if own.ids is not None and others.ids is not None:
    same = own.ids == others.ids
    visible = _fit(visible, same) & same
  return jnp.where(_fit(visible, scores), scores, -jnp.inf)


def _seen(own: _Rows, others: _Columns, window: int | None) -> jax.Array:
  """Whether any of these keys is near enough to any of these queries."""
  seen = others.places[0] <= own.places[-1, 0]
  if window is not None:
    seen = seen & (own.places[0, 0] - others.places[-1] < window)
  return seen


def _near(
  places: jax.Array, others: jax.Array, window: int | None
) -> jax.Array:
  """[R, P] of places [R, 1] and [P]: not later, and within the window."""
  distance = places - others[None, :]
  near = distance >= 0
  return near if window is None else near & (distance < window)


def _fit(mask: jax.Array, array: jax.Array) -> jax.Array:
  """A mask with as many axes as the array: ranks are not promoted."""
  return jnp.expand_dims(mask, range(array.ndim - mask.ndim))


def _alike(tree: Any) -> Any:
  """Arrays that all vary over the same mesh axes, as a loop's carry must."""

  def varying(x: jax.Array) -> frozenset[Any]:
    return jax.typeof(x).manual_axis_type.varying

  axes = frozenset().union(*map(varying, jax.tree.leaves(tree)))

  def cast(x: jax.Array) -> jax.Array:
    missing = tuple(axes - varying(x))
    return lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(cast, tree)


def split(array: jax.Array, axis: int, size: int) -> jax.Array:
  """Pieces in front; the last is filled with copies of the last entry."""
  axis = axis % array.ndim
  length = array.shape[axis]
  count = -(-length // size)
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, count * size - length)
  padded = jnp.pad(array, widths, mode="edge")
  shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
  return jnp.moveaxis(padded.reshape(shape), axis, 0)


def merge(chunks: jax.Array, length: int) -> jax.Array:
  """[n, ..., C, H, V] to [..., L, H, V]."""
  y = jnp.moveaxis(chunks, 0, -4)
  shape = (*y.shape[:-4], y.shape[-4] * y.shape[-3], *y.shape[-2:])
  return y.reshape(shape)[..., :length, :, :]
