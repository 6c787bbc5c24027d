"""Latent attention: keys and values are linear maps of one small vector."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.attention.attention import attention
from jaxmodels.ops.attention.cache import Cache
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.checks import at_most
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.platform import wide

__all__ = ["LatentCache", "latent_attention"]


@serializable
class LatentCache(NamedTuple):
  """The past tokens that a query may still see, oldest first.

  Attributes:
    latents: [..., M, C + R], in float32 or wider.
    live: [..., M] bool, whether the entry is in the last token's segment.
  """

  latents: jax.Array
  live: jax.Array


_CACHE = LatentCache._make(("... M C", "... M"))


@by_letters(
  ("... L H V", _CACHE),
  q="... L H K",
  latents="... L C",
  kernel="R H F",
  initial_state=_CACHE,
)
def latent_attention(
  q: jax.Array,
  latents: jax.Array,
  kernel: jax.Array,
  window: int | None = None,
  initial_state: LatentCache | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: str = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, LatentCache]:
  """Softmax attention whose cache has one vector per token, for all heads.

    k_s = [W_k c_s, r_s],  v_s = W_v c_s,  y_t = sum_s softmax_s(q_t . k_s) v_s

  with latents [c_s, r_s] and one pair of maps W_k, W_v per head. DeepSeek-AI
  2024, "DeepSeek-V2", arXiv:2405.04434.

  The op has two forms, equal except for rounding. The first makes keys and
  values of all tokens. The second applies W_k^T to the queries and W_v to the
  sums of latents: q_t . W_k c_s = (W_k^T q_t) . c_s. It has more work per pair
  of tokens, but none per token of the cache, so a call with few tokens that
  continues from a cache takes it.

  Args:
    q: [..., L, H, K + R] queries, with their scale.
    latents: [..., L, C + R].
    kernel: [C, H, K + V], the maps of C to keys and to values per head.
    window: the number of tokens that a query sees, its own included, or None.
    initial_state: the `LatentCache` to continue from.
    segment_ids: [..., L], or None.
    reverse: as for `jaxmodels.ops.attention`, like the options below.
    method: "auto", "quadratic", "chunked" or "recurrent".
    chunk_size: queries per chunk.
    axis_name: the mesh axis over which L is sharded.

  Returns:
    y [..., L, H, V] in the dtype of the latents, and the `LatentCache`, with as
    many entries as the cache of `attention`.
  """
  rank = kernel.shape[0]
  width = q.shape[-1] - (latents.shape[-1] - rank)
  values = kernel.shape[-1] - width
  checks.require(
    min(width, values) > 0 and kernel.shape[1] == q.shape[-2],
    "latent_attention: kernel must be [C, H, K + V] for q [..., L, H, K + R] "
    f"and latents [..., L, C + R], got {kernel.shape}, {q.shape} and "
    f"{latents.shape}",
  )
  options = {
    "segment_ids": segment_ids,
    "reverse": reverse,
    "method": method,
    "chunk_size": chunk_size,
    "axis_name": axis_name,
  }
  # The second form costs 2 C - K - V more per pair of a query and a key, and
  # saves C (K + V) per key.
  more = 2 * rank - width - values
  few = more <= 0 or at_most(q.shape[-3], rank * (width + values) // more)
  if initial_state is not None and few:
    y, cache = _absorbed(
      q, latents, kernel, width, window, initial_state, options
    )
  else:
    y, cache = _expanded(
      q, latents, kernel, width, window, initial_state, options
    )
  return y.astype(latents.dtype), LatentCache(cache.k[..., 0, :], cache.live)


def _absorbed(
  q: jax.Array,
  latents: jax.Array,
  kernel: jax.Array,
  width: int,
  window: int | None,
  past: LatentCache,
  options: dict[str, Any],
) -> tuple[jax.Array, Cache]:
  """All heads share one key, the latents, and one value, their first C."""
  rank, dtype = kernel.shape[0], wide(latents)
  q, kernel = q.astype(dtype), kernel.astype(dtype)
  near = jnp.einsum("...lhk,chk->...lhc", q[..., :width], kernel[..., :width])
  keys, before = latents.astype(dtype), past.latents[..., None, :]
  y, cache = attention(
    jnp.concatenate([near, q[..., width:]], -1),
    keys[..., None, :],
    keys[..., None, :rank],
    window,
    Cache(before, before[..., :rank], past.live),
    **options,
  )
  return jnp.einsum("...lhc,chv->...lhv", y, kernel[..., width:]), cache


def _expanded(
  q: jax.Array,
  latents: jax.Array,
  kernel: jax.Array,
  width: int,
  window: int | None,
  past: LatentCache | None,
  options: dict[str, Any],
) -> tuple[jax.Array, Cache]:
  """Every head has its own keys and values."""

  def expand(latents: jax.Array) -> tuple[jax.Array, jax.Array]:
    rank = kernel.shape[0]
    both = jnp.einsum("...c,chf->...hf", latents[..., :rank], kernel)
    rest = latents[..., None, rank:]
    rest = jnp.broadcast_to(rest, (*both.shape[:-1], rest.shape[-1]))
    return jnp.concatenate([both[..., :width], rest], -1), both[..., width:]

  before = shared = None
  if past is not None:
    before = Cache(*expand(past.latents.astype(latents.dtype)), past.live)
    entries = past.latents[..., None, :]
    shared = Cache(entries, entries[..., :0], past.live)
  y, _ = attention(q, *expand(latents), window, before, **options)
  # Values of width 0 make no scores: this call only updates the cache.
  entries = latents[..., None, :]
  _, cache = attention(
    entries, entries, entries[..., :0], window, shared, **options
  )
  return y, cache
