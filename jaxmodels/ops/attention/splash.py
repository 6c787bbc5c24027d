"""Softmax attention by JAX's splash attention kernel, on TPUs."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine.over_mesh import can_split, over_mesh
from jaxmodels.ops.engine.platform import takes_kernels

__all__ = ["attend_splash", "fits_splash"]

# Tokens per tile: the largest that divides the length. The kernel needs at
# least 128, and large tiles need fewer steps.
TILES = (512, 256, 128)
DTYPE = jnp.bfloat16


def fits_splash(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
  """Whether the kernel takes these arrays on the target platform.

  It takes bfloat16 on a TPU, and sizes known while tracing. Its products are of
  bfloat16, so float32 stays with the tiles. The compiler cannot split the
  kernel over devices: there must be one device, or a mesh in the context, by
  `jax.set_mesh` or inside `jax.shard_map`.

  Args:
    q: [..., L, Hq, K].
    k: [..., L, Hkv, K].
    v: [..., L, Hkv, V].
  """
  return (
    takes_kernels()
    and q.dtype == k.dtype == v.dtype == DTYPE
    and all(isinstance(n, int) and n > 0 for n in (*q.shape, *v.shape))
    and q.shape[-3] >= TILES[-1]
    and can_split()
  )


def attend_splash(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  ids: jax.Array | None,
  window: int | None,
  softcap: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Causal attention without a cache.

  It has gradients of the first order in reverse mode only. Under `jit` with a
  mesh, the devices share the rows of the batch, as far as it divides.

  Args:
    q: [..., L, Hq, K], with its scale.
    k: [..., L, Hkv, K]; Hkv divides Hq.
    v: [..., L, Hkv, V].
    ids: [..., L] numbers of the segments, which only grow, or None.
    window: the number of tokens that a query sees, its own included, or None.
    softcap: the soft cap of the scores, or None.
    interpret: whether to run in Pallas's interpreter, for tests.

  Returns:
    [..., L, Hq, V].
  """
  # Pallas is slow to import, and most programs do not need it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length, heads = q.shape[-3:-1]
  # No query sees tokens after its own.
  padding = -length % TILES[-1]
  padded = length + padding
  shape = padded, padded
  mask: Any = splash.CausalMask(shape)
  if window is not None:
    mask = splash.LocalMask(shape, (window - 1, 0), 0)
  tile = next(size for size in TILES if padded % size == 0)
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([mask] * heads),
    block_sizes=splash.BlockSizes(*(tile,) * 8),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap,
    interpret=interpret,
  )

  def heads_first(x: jax.Array) -> jax.Array:
    """[B, H, L, K] with the padding."""
    x = jnp.swapaxes(x.reshape((-1, *x.shape[-3:])), 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))

  arrays = [heads_first(x) for x in (q, k, v)]
  if ids is not None:
    ids = jnp.pad(ids.reshape(-1, length), ((0, 0), (0, padding)), mode="edge")
    arrays.append(ids)

  def rows(q, k, v, *ids):
    return kernel(q, k, v, *(splash.SegmentIds(x, x) for x in ids))

  y = over_mesh(jax.vmap(rows), arrays, ["B"] * len(arrays), "B", {"B": 1})
  return jnp.swapaxes(y[:, :, :length], 1, 2).reshape(
    (*q.shape[:-1], v.shape[-1])
  )
