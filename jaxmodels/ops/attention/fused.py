"""Softmax attention by the fused kernel of cuDNN, on NVIDIA GPUs."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine.platform import cudnn_head_width

__all__ = ["attend_fused", "fits"]

HALF = (jnp.bfloat16, jnp.float16)


def fits(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
  """Whether cuDNN takes these arrays on the target platform.

  It takes bfloat16 or float16, heads of equal key and value width that are a
  multiple of 8 and not too wide for the GPU, and sizes known while tracing. On
  an H200 it took 0.49 ms, and 1.24 ms with the gradient, beside 3.7 and 11.9 ms
  in tiles: `benchmarks/NOTES.md`.

  Args:
    q: [..., L, Hq, K].
    k: [..., L, Hkv, K].
    v: [..., L, Hkv, V].
  """
  width = q.shape[-1]
  return (
    width <= cudnn_head_width()
    and width % 8 == 0
    and width == v.shape[-1]
    and q.dtype == k.dtype == v.dtype
    and q.dtype in HALF
    and all(isinstance(n, int) and n > 0 for n in (*q.shape, *k.shape))
  )


def attend_fused(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  window: int | None,
  implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
  """Causal attention of one segment, by `jax.nn.dot_product_attention`.

  It has gradients of the first order in reverse mode only. cuDNN computes
  scores and sums in float32, and rounds the weights to the dtype of v.

  Args:
    q: [..., L, Hq, K], with its scale.
    k: [..., L, Hkv, K]; Hkv divides Hq.
    v: [..., L, Hkv, K].
    window: the number of tokens that a query sees, its own included, or None.
    implementation: "xla" computes the same anywhere, for tests.

  Returns:
    [..., L, Hq, K].
  """

  def flat(x: jax.Array) -> jax.Array:
    return x.reshape((-1, *x.shape[-3:]))

  options: dict[str, Any] = {}
  if window is not None:
    options["local_window_size"] = (window - 1, 0)
  y = jax.nn.dot_product_attention(
    flat(q),
    flat(k),
    flat(v),
    scale=1.0,
    is_causal=True,
    implementation=implementation,
    **options,
  )
  return y.reshape(q.shape)
