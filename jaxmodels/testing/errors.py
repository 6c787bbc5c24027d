"""Relative errors of results, and their tolerances."""

from typing import Any

import jax.numpy as jnp
import numpy as np

# Relative errors against float64. The bound of bfloat16 is a few of its
# rounding steps (2^-9): inputs and outputs take one each.
TOLERANCE = {
  "float64": 1e-11,
  "complex128": 1e-11,
  "float32": 2e-5,
  "complex64": 2e-5,
  "bfloat16": 2e-2,
  "float16": 5e-3,
}


def tolerance(dtype: Any) -> float:
  """The largest allowed relative error of results in a dtype."""
  return TOLERANCE[jnp.dtype(dtype).name]


def relative_error(result: Any, expected: Any) -> float:
  """`|result - expected| / |expected|` in float64; inf if not finite."""
  result, expected = widest(result), widest(expected)
  if result.shape != expected.shape or not np.all(np.isfinite(result)):
    return float("inf")
  error, scale = np.linalg.norm(result - expected), np.linalg.norm(expected)
  return float(error / scale) if scale else float(error)


def first_wrong(
  result: Any, expected: Any, allowed: float, reverse: bool = False
) -> int | None:
  """The first token of [B, L, ...] whose error is above the tolerance.

  The error is relative to the typical size of a token, so that rounding of a
  small token does not count. In reverse, the first in the order of the run.
  """
  wrong = wrong_tokens(result, expected, allowed)
  at = np.flatnonzero(wrong.any(0))
  return int(at[-1 if reverse else 0]) if at.size else None


def wrong_tokens(result: Any, expected: Any, allowed: float) -> np.ndarray:
  """[B, L] bool, the tokens of [B, L, ...] with an error above tolerance."""
  result, expected = widest(result), widest(expected)
  batch, length = expected.shape[:2]
  error = np.abs(result - expected).reshape(batch, length, -1)
  scale = np.sqrt(np.mean(np.abs(expected) ** 2))
  return ~(error.max(-1, initial=0) <= 5 * allowed * scale)


def widest(x: Any) -> np.ndarray:
  """Converts to float64 or complex128."""
  x = np.asarray(x)
  wide = np.complex128 if np.iscomplexobj(x) else np.float64
  return x.astype(wide)
