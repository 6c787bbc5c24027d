"""The precision of decoding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["widened"]


def widened(model: nn.Module, variables: Any) -> tuple[nn.Module, Any]:
  """The model and its variables in float32, where they have fewer bits."""
  dtype = getattr(model, "dtype", jnp.float32)
  if jnp.finfo(dtype).bits >= 32:
    return model, variables

  def wide(leaf: Any) -> Any:
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating)
    narrow = narrow and jnp.finfo(leaf.dtype).bits < 32
    return jnp.asarray(leaf, jnp.float32) if narrow else leaf

  return model.clone(dtype=jnp.float32), jax.tree.map(wide, variables)
