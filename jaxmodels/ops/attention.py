"""Causal softmax attention, full or in a window, with its cache as state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops import checks, halo, kv_cache
from jaxmodels.ops.kv_cache import Cache

__all__ = ["Cache", "attention"]

METHODS = ("auto", "parallel", "chunked", "recurrent")
# Above this many scores a head, "auto" goes chunk by chunk.
PARALLEL_SCORES = 512 * 512
DEFAULT_CHUNK = 128


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  window: int | None = None,
  initial_state: Cache | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: str = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, Cache]:
  """Causal softmax attention (Vaswani et al. 2017, arXiv:1706.03762).

  y_t = sum_s softmax_s(q_t . k_s) v_s,
  s over the tokens of t's segment with t - window < s <= t.

  There is no hidden scale: the caller multiplies q by 1/sqrt(K) or by what
  else it likes. Query head h reads key head h // (Hq / Hkv): grouped heads
  (Ainslie et al. 2023, arXiv:2305.13245).

  "parallel" holds all L x (M + L) scores. "chunked" takes `chunk_size`
  queries at a time and recomputes their scores in the backward pass, so that
  memory grows linearly with L; with a window only a chunk's own keys and the
  window - 1 before it are touched, and work is linear too. "recurrent" is
  "chunked" with chunks of one query. "auto" takes "parallel" up to 512 x 512
  scores a head and "chunked" above, whatever the platform and dtype.

  Args:
    q: [..., L, Hq, K] queries, any number of batch axes, any length.
    k: [..., L, Hkv, K] keys; Hq is a multiple of Hkv.
    v: [..., L, Hkv, V] values.
    window: How many tokens a query sees, itself among them, or None for all.
    initial_state: The cache to continue from; it belongs to segment 0. With
      a window its length is window - 1, without one it is any.
    segment_ids: [..., L] integers that only grow along L; None joins all.
    reverse: Run from the last token to the first: a query sees itself and
      what comes after. The cache is then in the order of that walk too.
    method: "auto", "parallel", "chunked" or "recurrent".
    chunk_size: Queries a chunk; None stands for 128, or for the window
      where that is larger.
    axis_name: Mesh axis that L is cut over, inside `shard_map`. A window no
      longer than a piece asks the neighbour for its last window - 1 entries;
      otherwise all keys and values are gathered (LASP-2H, Sun et al. 2025,
      arXiv:2502.07563). `initial_state` and the state returned are the whole
      sequence's, on every device.

  Returns:
    y: [..., L, Hq, V], of the dtype of `v`; sums are in float32 or wider.
    state: `Cache`; with a window always of window - 1 entries, so that
      decoding has one program and constant memory, else M + L entries. What
      is not joined to the last token is not live, and zero.

  Raises:
    ValueError: For a wrong shape, window or method, naming the argument.
  """
  _check(q, k, v, window, initial_state, segment_ids, method, chunk_size)
  with jax.named_scope("attention"):
    wide = np.result_type(q.dtype, k.dtype, v.dtype, np.float32)
    out = v.dtype
    q, k, v = (jnp.asarray(a, wide) for a in (q, k, v))
    ids = jnp.zeros(k.shape[:-2], jnp.int32)
    if segment_ids is not None:
      ids = jnp.asarray(segment_ids)
    if reverse:
      q, k, v = (jnp.flip(a, -3) for a in (q, k, v))
      ids = halo.reverse_ids(ids, axis_name)
    cache = kv_cache.entering(k, v, initial_state)
    if method == "auto":
      method = _choose(q, cache, axis_name)
    # A window that holds all there is would make a single chunk of it.
    total = cache.k.shape[-3] + k.shape[-3]
    reach = None if axis_name is None and total <= (window or 0) else window
    chunk = None
    if method != "parallel":
      chunk = chunk_size or max(DEFAULT_CHUNK, reach or 1)
      chunk = 1 if method == "recurrent" else chunk
    if axis_name is None:
      y = _local(q, k, v, ids, cache, reach, chunk)
      state = kv_cache.leaving(k, v, ids, cache, window)
    else:
      y, state = _sharded(
        q, k, v, ids, cache, window, chunk, axis_name, reverse
      )
    if reverse:
      y = jnp.flip(y, -3)
    checks.finite("attention", y=y, final_state=state[:2])
    return y.astype(out), state


def _choose(q: jax.Array, cache: Cache, axis_name: str | None) -> str:
  length = q.shape[-3]
  keys = cache.k.shape[-3] + length
  if axis_name is not None:
    keys = cache.k.shape[-3] + length * lax.axis_size(axis_name)
  return "parallel" if length * keys <= PARALLEL_SCORES else "chunked"


def _rows(
  q: jax.Array,
  ids: jax.Array,
  places: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_ids: jax.Array,
  window: int | None,
) -> jax.Array:
  """Some queries against some keys, all scores at once.

  `places` [C] says where among the keys each query's own token is; so every
  row has something to see and the softmax never meets an empty one.
  """
  heads = k.shape[-2]
  shape = (*q.shape[:-2], heads, q.shape[-2] // heads, q.shape[-1])
  grouped = q.reshape(shape)
  scores = jnp.einsum("...qhgk,...phk->...hgqp", grouped, k)
  distance = places[:, None] - jnp.arange(k.shape[-3])[None, :]
  near = distance >= 0
  if window is not None:
    near = near & (distance < window)
  same = ids[..., :, None] == key_ids[..., None, :]
  visible = same & jnp.expand_dims(near, range(same.ndim - 2))
  # Masked before the softmax, so that neither pass sees exp(+large).
  scores = jnp.where(visible[..., None, None, :, :], scores, -jnp.inf)
  weights = jax.nn.softmax(scores, -1)
  y = jnp.einsum("...hgqp,...phv->...qhgv", weights, v)
  return y.reshape((*q.shape[:-1], v.shape[-1]))


def _local(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array,
  cache: Cache,
  window: int | None,
  chunk: int | None,
) -> jax.Array:
  """The outputs of tokens that start in the segment of `cache`."""
  length = q.shape[-3]
  if window is not None and chunk is not None and length > chunk:
    return _windowed_chunks(q, k, v, ids, cache, window, chunk)
  keys, values, key_ids = kv_cache.joined(k, v, ids, cache)
  places = cache.k.shape[-3] + jnp.arange(length)
  return _queries(q, ids, places, keys, values, key_ids, window, chunk)


def _queries(
  q: jax.Array,
  ids: jax.Array,
  places: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_ids: jax.Array,
  window: int | None,
  chunk: int | None,
) -> jax.Array:
  """`_rows`, `chunk` queries at a time, scores not kept for the gradient."""
  length = q.shape[-3]
  if chunk is None or length <= chunk:
    return _rows(q, ids, places, k, v, key_ids, window)

  # A padded query stands where the last token does, and sees what it sees.
  chunks = (
    _split(q, -3, chunk),
    _split(ids, -1, chunk),
    _split(places, -1, chunk),
  )

  @jax.checkpoint
  def body(
    carry: tuple[()], some: tuple[jax.Array, jax.Array, jax.Array]
  ) -> tuple[tuple[()], jax.Array]:
    return carry, _rows(*some, k, v, key_ids, window)

  _, y = lax.scan(body, (), chunks)
  return _merge(y, length)


def _windowed_chunks(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array,
  cache: Cache,
  window: int,
  chunk: int,
) -> jax.Array:
  """Chunk after chunk, the window's cache as the carry."""

  @jax.checkpoint
  def body(
    carry: tuple[Cache, jax.Array], some: tuple[jax.Array, ...]
  ) -> tuple[tuple[Cache, jax.Array], jax.Array]:
    cache, before = carry
    q, k, v, ids = some
    # Counted from the segment of the cache, which is segment 0.
    own = ids - before
    y = _local(q, k, v, own, cache, window, None)
    return (kv_cache.leaving(k, v, own, cache, window), ids[..., -1:]), y

  chunks = (*(_split(a, -3, chunk) for a in (q, k, v)), _split(ids, -1, chunk))
  start = (kv_cache.fill(cache, window - 1), jnp.zeros_like(ids[..., :1]))
  _, y = lax.scan(body, start, chunks)
  return _merge(y, q.shape[-3])


def _sharded(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array,
  cache: Cache,
  window: int | None,
  chunk: int | None,
  axis_name: str,
  reverse: bool,
) -> tuple[jax.Array, Cache]:
  """The same for a sequence that is cut over a mesh axis."""
  length = q.shape[-3]
  if window is not None and 0 < window <= length:
    own = kv_cache.leaving(k, v, ids, cache, window)
    passed = functools.partial(
      halo.from_previous, axis_name=axis_name, reverse=reverse
    )
    before = passed(ids[..., -1:], jnp.zeros_like(ids[..., -1:]))
    cache = kv_cache.fill(cache, window - 1)
    tail = Cache(*(passed(a, b) for a, b in zip(own, cache, strict=True)))
    own = Cache(
      halo.from_last(own.k, axis_name, reverse),
      halo.from_last(own.v, axis_name, reverse),
      halo.from_last(own.live.astype(jnp.int32), axis_name, reverse) > 0,
    )
    return _local(q, k, v, ids - before, tail, window, chunk), own
  axis = k.ndim - 3
  all_k = halo.gather(k, axis, axis_name, reverse)
  all_v = halo.gather(v, axis, axis_name, reverse)
  if not cache.live.shape[-1]:
    # Made from a piece it would count as that device's own.
    cache = kv_cache.entering(all_k, all_v, None)
  all_ids = halo.gather(ids, axis, axis_name, reverse)
  keys, values, key_ids = kv_cache.joined(all_k, all_v, all_ids, cache)
  places = cache.k.shape[-3] + jnp.arange(length)
  places = places + halo.rank(axis_name, reverse) * length
  y = _queries(q, ids, places, keys, values, key_ids, window, chunk)
  return y, kv_cache.leaving(all_k, all_v, all_ids, cache, window)


def _split(array: jax.Array, axis: int, chunk: int) -> jax.Array:
  """Chunks in front; the last is filled with copies of the last token."""
  axis = axis % array.ndim
  length = array.shape[axis]
  count = -(-length // chunk)
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, count * chunk - length)
  padded = jnp.pad(array, widths, mode="edge")
  shape = (*array.shape[:axis], count, chunk, *array.shape[axis + 1 :])
  return jnp.moveaxis(padded.reshape(shape), axis, 0)


def _merge(chunks: jax.Array, length: int) -> jax.Array:
  """[n, ..., C, H, V] to [..., L, H, V]."""
  y = jnp.moveaxis(chunks, 0, -4)
  shape = (*y.shape[:-4], y.shape[-4] * y.shape[-3], *y.shape[-2:])
  return y.reshape(shape)[..., :length, :, :]


def _check(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  window: int | None,
  initial_state: Cache | None,
  segment_ids: jax.Array | None,
  method: str,
  chunk_size: int | None,
) -> None:
  """Checks shapes and dtypes, and numbers where that is switched on."""
  op = "attention"
  checks.require(
    method in METHODS,
    f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}",
  )
  for name, number in (("window", window), ("chunk_size", chunk_size)):
    checks.require(
      number is None or number > 0,
      f"{op}: {name} must be None or at least 1, got {number}",
    )
  checks.rank_at_least(op, "q", q, 3, "[..., L, Hq, K]")
  checks.rank_at_least(op, "k", k, 3, "[..., L, Hkv, K]")
  *batch, length, q_heads, width = q.shape
  heads = k.shape[-2]
  checks.require(
    heads > 0 and q_heads % heads == 0,
    f"{op}: k must have a number of heads that divides q's {q_heads}, "
    f"got {heads}",
  )
  keys = (*batch, length, heads, width)
  checks.shape(op, "k", k, keys, "[..., L, Hkv, K]")
  checks.shape(op, "v", v, (*keys[:-1], None), "[..., L, Hkv, V]")
  for name, array in (("q", q), ("k", k), ("v", v)):
    checks.dtype(op, name, array, jnp.floating, "real floating point")
  checks.segment_ids(op, segment_ids, (*batch, length))
  if initial_state is not None:
    past = initial_state.live.shape[-1] if window is None else window - 1
    entries = (*batch, past, heads)
    for name, array, wanted, letters in (
      ("live", initial_state.live, entries[:-1], "[..., M]"),
      ("k", initial_state.k, (*entries, width), "[..., M, Hkv, K]"),
      ("v", initial_state.v, (*entries, v.shape[-1]), "[..., M, Hkv, V]"),
    ):
      checks.shape(op, f"initial_state.{name}", array, wanted, letters)
    checks.finite(op, initial_state=initial_state[:2])
  checks.finite(op, q=q, k=k, v=v)
