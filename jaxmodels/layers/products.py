"""Products of tokens with a matrix."""

from typing import Any

import jax
from jax import lax

from jaxmodels.ops.engine.platform import platform

__all__ = ["dense_product"]


def dense_product(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
  """Returns x [..., D] times a kernel [D, F], as [..., F].

  On a CPU, the leading axes of x are merged. With several of them, XLA writes
  the transposed x and the transposed gradient, which the gradient of the kernel
  needs, in loops that also compute them: each read then misses the cache. With
  one axis it has products that read them as they are. Other platforms choose
  layouts themselves, and a merged axis could not be sharded along the length.

  Args:
    x: [..., D].
    kernel: [D, F].
    **options: As for `lax.dot_general`.
  """
  merged = platform() == "cpu" and x.ndim > 2
  rows = x.reshape(-1, x.shape[-1]) if merged else x
  axes = (((rows.ndim - 1,), (0,)), ((), ()))
  y = lax.dot_general(rows, kernel, axes, **options)
  return y.reshape(*x.shape[:-1], y.shape[-1]) if merged else y
