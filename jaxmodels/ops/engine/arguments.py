"""Converts the arguments of ops to JAX arrays, from NumPy arrays and lists too.

Each op converts its arguments once, at the start. JAX itself would convert them
at their first use, and warn of every float64 that it narrows to float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine.checks import require


def arrays(op: str, **given: Any) -> tuple[Any, ...]:
  """Converts arguments to JAX arrays, in order; None stays None.

  Args:
    op: the op, for messages.
    **given: JAX arrays, which stay unchanged, or anything that NumPy converts
      to an array.

  Raises:
    ValueError: an argument cannot be converted; names the argument.
  """
  return tuple(array(op, name, x) for name, x in given.items())


def array(op: str, name: str, x: Any) -> Any:
  """Converts one argument, like `arrays`."""
  if x is None or isinstance(x, jax.Array):
    return x
  try:
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
      return jnp.asarray(x)  # NumPy cannot convert traced arrays.
    return _from_numpy(op, name, np.asarray(x))
  except (TypeError, ValueError) as error:
    if str(error).startswith(f"{op}: "):
      raise
    wrong = f"{op}: {name} must be an array, got {describe(x)}"
    raise ValueError(wrong) from error


def state(op: str, given: Any, kind: Any) -> Any:
  """Converts an initial state of several arrays to its NamedTuple.

  Args:
    op: the op, for messages.
    given: an instance of `kind`, or a tuple or list of as many arrays.
    kind: the NamedTuple.

  Raises:
    ValueError: `given` is neither, or one of its parts is not an array.
  """
  fields = kind._fields
  require(
    isinstance(given, (tuple, list)) and len(given) == len(fields),
    f"{op}: initial_state must be {kind.__name__}({', '.join(fields)}), "
    f"got {describe(given)}",
  )
  parts = zip(fields, given, strict=True)
  return kind(*(array(op, f"initial_state.{name}", x) for name, x in parts))


def describe(x: Any) -> str:
  """A short description of any object, for messages."""
  if hasattr(x, "shape") and hasattr(x, "dtype"):
    return f"an array of shape ({', '.join(map(str, x.shape))})"
  name = type(x).__name__
  if isinstance(x, tuple) and len(x) == 2:
    return f"a {name} of 2 (an op returns y and its state: give the state)"
  return f"a {name} of {len(x)}" if hasattr(x, "__len__") else f"a {name}"


def _from_numpy(op: str, name: str, x: np.ndarray) -> jax.Array:
  """A JAX array, in the dtype that JAX uses for the NumPy dtype."""
  dtype = jax.dtypes.canonicalize_dtype(x.dtype)
  if dtype != x.dtype and jnp.issubdtype(dtype, jnp.integer) and x.size:
    info = jnp.iinfo(dtype)
    require(
      info.min <= x.min() and x.max() <= info.max,
      f"{op}: {name} must fit {dtype.name}, got numbers from {x.min()} to "
      f"{x.max()}",
    )
  with np.errstate(over="ignore", under="ignore"):  # -1e300 becomes -inf.
    return jnp.asarray(x.astype(dtype, copy=False))
