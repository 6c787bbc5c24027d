"""The cache of attention: the past tokens that a query may still see.

Here segment ids [..., L] number the segments; the segment of the cache is 0.
None stands for a sequence without segments and without a cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.attention.tiles import Keys
from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.exporting import serializable

__all__ = [
  "Cache",
  "entering",
  "fill",
  "joined",
  "leaving",
  "numbered",
  "parted",
]


@serializable
class Cache(NamedTuple):
  """The past tokens that a query may still see, oldest first.

  Attributes:
    k: [..., M, Hkv, K] keys, in float32 or wider.
    v: [..., M, Hkv, V] values, in float32 or wider.
    live: [..., M] bool, whether the entry is in the last token's segment.
  """

  k: jax.Array
  v: jax.Array
  live: jax.Array


def entering(k: jax.Array, v: jax.Array, state: Cache | None) -> Cache:
  """The initial cache, in the dtypes of `k` and `v`; empty for None."""
  if state is None:
    live = jnp.ones_like(k, bool, shape=(*k.shape[:-3], 0))
    return Cache(k[..., :0, :, :], v[..., :0, :, :], live)
  return Cache(
    jnp.asarray(state.k, k.dtype),
    jnp.asarray(state.v, v.dtype),
    jnp.asarray(state.live),
  )


def numbered(ids: jax.Array | None, k: jax.Array) -> jax.Array:
  """The ids, or zeros if they are None."""
  return jnp.zeros(k.shape[:-2], jnp.int32) if ids is None else ids


def fill(cache: Cache, size: int) -> Cache:
  """The newest `size` entries; entries that are not live fill a short cache."""
  past = cache.live.shape[-1]

  def fit(array: jax.Array, axis: int) -> jax.Array:
    axis += array.ndim
    if is_open(past):  # A symbolic length may be above or below `size`.
      dead = [(0, 0)] * array.ndim
      dead[axis] = (size, 0)
      padded = jnp.pad(array, dead)
      return lax.slice_in_dim(padded, past, past + size, axis=axis)
    kept = lax.slice_in_dim(array, max(past - size, 0), past, axis=axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (max(size - past, 0), 0)
    return jnp.pad(kept, widths)

  return Cache(fit(cache.k, -3), fit(cache.v, -3), fit(cache.live, -1))


def leaving(
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array | None,
  cache: Cache,
  window: int | None,
) -> Cache:
  """The cache after these tokens, which start in the segment of `cache`."""
  ids = numbered(ids, k)
  if k.shape[-3] > 0:
    live = jnp.concatenate(
      [cache.live & (ids[..., -1:] == 0), ids == ids[..., -1:]], -1
    )
    mask = live[..., None, None]
    keys = jnp.concatenate([cache.k, k], -3)
    values = jnp.concatenate([cache.v, v], -3)
    cache = Cache(jnp.where(mask, keys, 0), jnp.where(mask, values, 0), live)
  return cache if window is None else fill(cache, window - 1)


def parted(
  k: jax.Array, v: jax.Array, ids: jax.Array | None, cache: Cache
) -> tuple[Keys, ...]:
  """The cache and the tokens; an entry that is not live has id -1."""
  if ids is None:
    return (Keys(k, v, None),)
  entry_ids = jnp.where(cache.live, 0, -1).astype(ids.dtype)
  return Keys(cache.k, cache.v, entry_ids), Keys(k, v, ids)


def joined(parts: tuple[Keys, ...]) -> Keys:
  """The parts one after another."""
  if len(parts) == 1:
    return parts[0]
  k, v, ids = zip(*parts, strict=True)
  return Keys(
    jnp.concatenate(k, -3), jnp.concatenate(v, -3), jnp.concatenate(ids, -1)
  )
