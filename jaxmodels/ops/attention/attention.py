"""Causal softmax attention, full or in a window; its state is a cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.attention import cache as kv_cache
from jaxmodels.ops.attention.cache import Cache
from jaxmodels.ops.attention.fused import attend_fused, fits
from jaxmodels.ops.attention.splash import attend_splash, fits_splash
from jaxmodels.ops.attention.tiles import (
  Keys,
  Queries,
  Scoring,
  Size,
  attend,
  attend_in_tiles,
  merge,
  split,
)
from jaxmodels.ops.engine import arguments, checks, halo
from jaxmodels.ops.engine.checks import at_most, is_open
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.segments import count_changes

__all__ = ["Cache", "attention"]

METHODS = ("auto", "quadratic", "chunked", "recurrent")
# Up to this many scores per head, "auto" computes all scores at once.
PARALLEL_SCORES = 512 * 512
WINDOW_CHUNK = 128


_CACHE = Cache._make(("... M G K", "... M G V", "... M"))


@by_letters(
  ("... L H V", _CACHE),
  q="... L H K",
  k="... L G K",
  v="... L G V",
  initial_state=_CACHE,
  sinks="H",
)
def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  window: int | None = None,
  initial_state: Cache | None = None,
  *,
  softcap: float | None = None,
  sinks: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: str = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, Cache]:
  """Causal softmax attention (Vaswani et al. 2017, arXiv:1706.03762).

  y_t = sum_s softmax_s(q_t . k_s) v_s,
  s over the tokens of t's segment with t - window < s <= t.

  With a soft cap c, c tanh(q_t . k_s / c) takes the place of q_t . k_s
  (Gemma 2, Gemma Team 2024, arXiv:2408.00118). With sinks, every query also
  sees a key with the score of its head's sink and a value of zero: the weights
  are exp(score_s) / (exp(sink) + sum_s exp(score_s)), so their sum is less than
  1 (gpt-oss, OpenAI 2025, arXiv:2508.10925). The soft cap does not apply to
  sinks.

  The op does not scale q: the caller multiplies q by 1/sqrt(K), or by another
  scale. Query head h reads key head h // (Hq / Hkv): grouped heads (Ainslie et
  al. 2023, arXiv:2305.13245). M is the number of tokens in the cache.

  "quadratic" stores all L x (M + L) scores. "chunked" takes `chunk_size`
  queries and as many keys at a time, skips keys that come after all of these
  queries, and recomputes the scores in the backward pass, so memory grows
  linearly with L. With a window it takes `chunk_size` queries, their own keys
  and the window - 1 keys before them, so work grows linearly too. "recurrent"
  is "chunked" with chunks of one query. "auto" is "quadratic" up to 512 x 512
  scores per head (without a window on a CPU, only below 256 queries), and
  "chunked" above. On an NVIDIA GPU of this machine it is the fused kernel of
  cuDNN for bfloat16 and float16, if there are no segment ids, initial state,
  soft cap, sinks or `axis_name`, and heads have equal key and value widths that
  are a multiple of 8, up to 256 (128 before Hopper). On a TPU it is JAX's
  splash attention for bfloat16 and at least 128 tokens, if there are no initial
  state, sinks or `axis_name`, and either one device or a mesh in the context
  (`jax.set_mesh`). No chip has run it here: `python -m benchmarks.chip` tests
  it. These two kernels have no forward-mode and no second derivatives: name
  "chunked" for them.

  Cost: about 2 L (K + V) flops per token and query head. "chunked" takes half
  of it, since it skips later keys; with a window, 2 (C + window) (K + V).

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, Hq, K] queries.
    k: [..., L, Hkv, K] keys; Hkv divides Hq.
    v: [..., L, Hkv, V] values.
    window: the number of tokens that a query sees, its own included, or None
      for all.
    initial_state: the `Cache` to continue from. With a window it has
      window - 1 entries, without one any number.
    softcap: c, above 0, or None.
    sinks: [Hq] scores of any sign, or None.
    reverse: a query then sees its own token and later ones, and the cache is in
      the order of the run.
    method: "auto", "quadratic", "chunked" or "recurrent".
    chunk_size: queries per chunk, at least 1. By default 128 on a CPU and 512
      elsewhere; with a window, 128 or the window if that is larger.
    axis_name: if the window is no longer than a shard, the neighbouring device
      passes on its last window - 1 entries. Otherwise every device gathers all
      keys and values (LASP-2H, Sun et al. 2025, arXiv:2502.07563).

  Returns:
    y [..., L, Hq, V], and the `Cache`. With a window the cache always has
    window - 1 entries, so decoding has one program and constant memory; without
    one it has M + L. Entries of another segment than the last token's are zero,
    and not live.
  """
  q, k, v, ids = arguments.arrays(
    "attention", q=q, k=k, v=v, segment_ids=segment_ids
  )
  if initial_state is not None:
    initial_state = arguments.state("attention", initial_state, Cache)
  _check(q, k, v, window, initial_state, ids, method, chunk_size)
  _check_scoring(q, softcap, sinks)
  with jax.named_scope("attention"):
    wide = np.result_type(q.dtype, k.dtype, v.dtype, np.float32)
    out = v.dtype
    if reverse:
      q, k, v = (jnp.flip(a, -3) for a in (q, k, v))
      ids = None if ids is None else jnp.flip(ids, -1)
    given = q, k, v
    if method == "auto":
      more = initial_state, sinks, axis_name
      method = _of_platform(given, (ids, softcap), more)
    q, k, v = (jnp.asarray(a, wide) for a in given)
    sinks = None if sinks is None else jnp.asarray(sinks, wide)
    if initial_state is not None:
      ids = kv_cache.numbered(ids, k)
    cache = kv_cache.entering(k, v, initial_state)
    # A window as long as the cache and the sequence hides nothing.
    length, past = k.shape[-3], cache.k.shape[-3]
    most = past + length - 1 if axis_name is None else length
    near = window
    if window is not None and not is_open(most) and window > most:
      near = None
    if method == "auto":
      method = _choose(q, cache, near, axis_name)
    size = _size(method, chunk_size, near)
    scoring = Scoring(near, softcap, sinks)
    if axis_name is None:
      ids = _number(ids, None, reverse)
      if method == "fused":
        y = attend_fused(*given, near)
      elif method == "splash":
        y = attend_splash(*given, ids, near, softcap)
      else:
        y = _local(q, k, v, ids, cache, scoring, size)
      state = kv_cache.leaving(k, v, ids, cache, window)
    else:
      scoring = scoring._replace(window=window)
      y, state = _sharded(
        q, k, v, ids, cache, scoring, size, axis_name, reverse
      )
    if reverse:
      y = jnp.flip(y, -3)
    checks.finite("attention", y=y, final_state=state[:2])
    return y.astype(out), state


def _of_platform(
  given: tuple[jax.Array, jax.Array, jax.Array],
  some: tuple[Any, ...],
  more: tuple[Any, ...],
) -> str:
  """The platform's own kernel if it takes these arrays and options.

  Args:
    given: q, k and v.
    some: Options that only the kernel for TPUs takes.
    more: Options that no kernel takes.
  """
  if any(x is not None for x in more):
    return "auto"
  if all(x is None for x in some) and fits(*given):
    return "fused"
  return "splash" if fits_splash(*given) else "auto"


def _choose(
  q: jax.Array, cache: Cache, window: int | None, axis_name: str | None
) -> str:
  length = q.shape[-3]
  keys = cache.k.shape[-3] + length
  if axis_name is not None:
    keys = cache.k.shape[-3] + length * lax.axis_size(axis_name)
  few = at_most(length * keys, PARALLEL_SCORES)
  if few and platform() == "cpu" and window is None:
    # Tiles fit the CPU's cache: they are faster as soon as there are two.
    few = length < 2 * _tile()
  return "quadratic" if few else "chunked"


def _tile() -> int:
  """The number of queries, and of keys, in a tile.

  Small on a CPU, so that the scores stay in its cache. Larger elsewhere, for
  fewer steps; this was not measured.
  """
  return 128 if platform() == "cpu" else 512


def _size(
  method: str, chunk_size: int | None, window: int | None
) -> Size | None:
  """Queries and keys per tile, or None for all scores at once."""
  if method == "quadratic":
    return None
  size = chunk_size
  if size is None:
    size = _tile() if window is None else max(WINDOW_CHUNK, window)
  return (1 if method == "recurrent" else size), size


def _number(
  ids: jax.Array | None, axis_name: str | None, reverse: bool
) -> jax.Array | None:
  """Numbers the segments; the segment of the cache is 0."""
  if ids is None:
    return None
  return count_changes(ids, halo.id_before(ids, axis_name, reverse))


def _local(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array | None,
  cache: Cache,
  scoring: Scoring,
  size: Size | None,
) -> jax.Array:
  """The outputs of tokens that start in the segment of `cache`."""
  length, window = q.shape[-3], scoring.window
  if window is not None and size is not None and not at_most(length, size[0]):
    return _windowed_chunks(q, k, v, ids, cache, window, scoring, size[0])
  queries = Queries(q, cache.k.shape[-3] + jnp.arange(length), ids)
  return _attend(queries, kv_cache.parted(k, v, ids, cache), scoring, size)


def _attend(
  queries: Queries,
  parts: tuple[Keys, ...],
  scoring: Scoring,
  size: Size | None,
) -> jax.Array:
  """Attends at once if all queries fit in one tile, and else in tiles."""
  q, (keys, *_) = queries.q, parts
  outputs = (*q.shape[:-1], keys.v.shape[-1])
  if 0 in outputs:
    return jnp.zeros(outputs, keys.v.dtype)
  if size is not None and not at_most(q.shape[-3], size[0]):
    return attend_in_tiles(queries, kv_cache.joined(parts), scoring, size)
  # Joins what is smaller per key: the scores, if queries are few, or the keys.
  # With joined scores, one token after 511 to 4,095 others takes 0.45 to 1.0 of
  # the CPU time with joined keys, by the number and width of heads.
  few = at_most(q.shape[-3] * q.shape[-2], keys.k.shape[-2] * keys.k.shape[-1])
  if not few:
    parts = (kv_cache.joined(parts),)
  return attend(queries, parts, scoring)


def _windowed_chunks(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array | None,
  cache: Cache,
  window: int,
  scoring: Scoring,
  chunk: int,
) -> jax.Array:
  """Scans over chunks; the carry is the cache of the window."""
  ids = kv_cache.numbered(ids, k)

  @jax.checkpoint
  def body(
    carry: tuple[Cache, jax.Array], some: tuple[jax.Array, ...]
  ) -> tuple[tuple[Cache, jax.Array], jax.Array]:
    cache, before = carry
    q, k, v, ids = some
    # Segment 0 is that of the cache.
    own = ids - before
    y = _local(q, k, v, own, cache, scoring, None)
    return (kv_cache.leaving(k, v, own, cache, window), ids[..., -1:]), y

  chunks = (*(split(a, -3, chunk) for a in (q, k, v)), split(ids, -1, chunk))
  start = (kv_cache.fill(cache, window - 1), jnp.zeros_like(ids[..., :1]))
  _, y = lax.scan(body, start, chunks)
  return merge(y, q.shape[-3])


def _sharded(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array | None,
  cache: Cache,
  scoring: Scoring,
  size: Size | None,
  axis_name: str,
  reverse: bool,
) -> tuple[jax.Array, Cache]:
  """The outputs and the cache of a sequence that is sharded."""
  length, window = q.shape[-3], scoring.window
  if window is not None and window <= length:
    ids = _number(kv_cache.numbered(ids, k), axis_name, reverse)
    own = kv_cache.leaving(k, v, ids, cache, window)
    passed = functools.partial(
      halo.from_previous, axis_name=axis_name, reverse=reverse
    )
    cache = kv_cache.fill(cache, window - 1)
    tail = Cache(*(passed(a, b) for a, b in zip(own, cache, strict=True)))
    own = Cache(
      halo.from_last(own.k, axis_name, reverse),
      halo.from_last(own.v, axis_name, reverse),
      halo.from_last(own.live.astype(jnp.int32), axis_name, reverse) > 0,
    )
    return _local(q, k, v, ids, tail, scoring, size), own
  axis, before = k.ndim - 3, halo.rank(axis_name, reverse) * length
  all_k = halo.gather(k, axis, axis_name, reverse)
  all_v = halo.gather(v, axis, axis_name, reverse)
  if not cache.live.shape[-1]:
    # An empty cache made from one shard would count as varying by device.
    cache = kv_cache.entering(all_k, all_v, None)
  all_ids = None
  if ids is not None:
    ids = halo.gather(ids, axis, axis_name, reverse)
    all_ids = count_changes(ids, halo.id_before(ids, None, reverse))
    ids = lax.dynamic_slice_in_dim(all_ids, before, length, axis)
  places = cache.k.shape[-3] + jnp.arange(length) + before
  parts = kv_cache.parted(all_k, all_v, all_ids, cache)
  y = _attend(Queries(q, places, ids), parts, scoring, size)
  return y, kv_cache.leaving(all_k, all_v, all_ids, cache, window)


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
  """Checks shapes and dtypes, and numbers if `checks.numerics` is on."""
  op = "attention"
  checks.method(op, method, METHODS)
  for name, number in (("window", window), ("chunk_size", chunk_size)):
    checks.require(
      number is None or number > 0,
      f"{op}: {name} must be None or at least 1, got {number}",
    )
  keys = {"q": (q, "... L H K"), "k": (k, "... L G K")}
  sizes = checks.arguments(op, **keys)
  q_heads, heads = sizes["H"], sizes["G"]
  checks.require(
    q_heads == heads or (heads > 0 and q_heads % heads == 0),
    f"{op}: k must have a number of heads that divides q's {q_heads}, "
    f"got {heads}",
  )
  sizes = checks.arguments(
    op,
    **keys,
    v=(v, "... L G V"),
    segment_ids=(segment_ids, "... L"),
    initial_state=(initial_state, _CACHE),
  )
  past = sizes.get("M")
  checks.require(
    past is None or window is None or past == window - 1,
    f"{op}: initial_state must hold window - 1 = {(window or 0) - 1} tokens, "
    f"got {past}",
  )
  checks.floating(op, q=q, k=k, v=v)
  checks.integers(op, segment_ids=segment_ids)
  if initial_state is not None:
    checks.finite(op, initial_state=initial_state[:2])
  checks.finite(op, q=q, k=k, v=v)


def _check_scoring(
  q: jax.Array, softcap: float | None, sinks: jax.Array | None
) -> None:
  """Checks the options of the softmax."""
  op = "attention"
  checks.require(
    softcap is None or softcap > 0,
    f"{op}: softcap must be None or above 0, got {softcap}",
  )
  if sinks is not None:
    checks.arguments(op, q=(q, "... L H K"), sinks=(sinks, "H"))
    checks.floating(op, sinks=sinks)
    checks.finite(op, sinks=sinks)
