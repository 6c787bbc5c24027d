"""The platform a program is traced for, and the dtype it adds up in.

Ops choose their form by it. JAX names the platform that is there, but a
program for a TPU may be traced and compiled where there is none.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

_TRACED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "traced_for", default=None
)


def platform() -> str:
  """Returns "cpu", "gpu" or "tpu": JAX's default, or as `trace_for` says."""
  return _TRACED_FOR.get() or jax.default_backend()


def masked_block(size: int) -> int:
  """Tokens that a ladder over a chunk of `size` takes in masked rounds.

  A round on a whole block does more than its share of pairs, but in one
  product. On a TPU that is the whole chunk: its unit multiplies 128 x 128 at
  once, and arrays of small blocks fill few of its lanes. A CPU is quicker
  with blocks of 8 in the first rounds and pairs of blocks in the others;
  nothing else was tried elsewhere.
  """
  return size if platform() == "tpu" else min(size, 8)


@contextlib.contextmanager
def trace_for(name: str) -> Iterator[None]:
  """Traces for another platform than JAX's default.

  JAX does not know of it when it looks up what it has traced before: lower a
  function that was made for the purpose.

  Args:
    name: "cpu", "gpu" or "tpu".
  """
  token = _TRACED_FOR.set(name)
  try:
    yield
  finally:
    _TRACED_FOR.reset(token)


def wide(*arrays: Any) -> Any:
  """The dtype of the arrays together, at least float32 (or complex64)."""
  with jax.numpy_dtype_promotion("standard"):  # Meant, also under "strict".
    dtype = jnp.result_type(*arrays)
    return jnp.promote_types(dtype, jnp.float32)
