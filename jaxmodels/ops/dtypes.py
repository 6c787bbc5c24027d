"""Dtypes that accumulate: float32, or wider where the arguments are."""

from typing import Any

import jax
import jax.numpy as jnp


def wide(*arrays: Any) -> Any:
  """The dtype of the arrays together, at least float32 (or complex64)."""
  with jax.numpy_dtype_promotion("standard"):  # Meant, also under "strict".
    dtype = jnp.result_type(*arrays)
    return jnp.promote_types(dtype, jnp.float32)
