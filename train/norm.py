"""Norms of gradients, updates and parameters of any dtype."""

from typing import Any

import jax
import jax.numpy as jnp


def norm(tree: Any) -> jax.Array:
  """Returns the root of the summed squares of all arrays, in float32.

  In float16 a square is infinite from 256 on.
  """
  return jnp.sqrt(sum(map(_square, jax.tree.leaves(tree)), jnp.float32(0)))


def _square(x: jax.Array) -> jax.Array:
  parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
  squares = (jnp.sum(jnp.square(p.astype(jnp.float32))) for p in parts)
  return sum(squares, jnp.float32(0))


def zero_if_finite(tree: Any) -> jax.Array:
  """Returns 0 if all numbers of some arrays are finite, else NaN.

  A sum, which compilers join over devices with the sums of the norms.
  """
  zeros = (
    jnp.sum(x * 0).real.astype(jnp.float32)
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  )
  return sum(zeros, jnp.float32(0))
