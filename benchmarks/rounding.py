"""Errors of ops whose products are TF32, as on an NVIDIA GPU by default.

python -m benchmarks.rounding

Prints the largest error of y and of each gradient, relative to the largest
value of the definition in float64: in float32, and with the factors of all
products rounded to TF32 (`jaxmodels.analysis.rounding`), in the forms "chunked"
and "chunk_parallel" of a GPU. No GPU is needed. Keys that are "alike" have a
common direction; the products of the delta rule then cancel.
"""

import argparse
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import CASES, Case, Sizes
from jaxmodels.analysis.rounding import with_tf32
from jaxmodels.ops.engine.platform import trace_for

SIZES = Sizes(batch=1, length=2048, heads=2, width=64)
OPS = (
  "linear_attention",
  "linear_attention_key_decay",
  "normalized_linear_attention",
  "delta_rule",
  "delta_rule_key_decay",
  "dplr_recurrence",
)
SPREAD = 0.05  # Of keys around their common direction, where they are alike.


def drawn(case: Case, alike: bool) -> dict[str, np.ndarray]:
  """The inputs of an op in float64."""
  inputs = {
    name: np.asarray(x, float) for name, x in case.inputs(SIZES).items()
  }
  if alike:
    keys = 1 + SPREAD * np.random.default_rng(1).normal(size=inputs["k"].shape)
    inputs["k"] = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
  return inputs


def results(case: Case, inputs, dtype, method: str, tf32: bool = False):
  """Y and the gradient by every input, for normal cotangents of y."""
  op = functools.partial(case.op, method=method)

  def both(inputs):
    y, backward = jax.vjp(lambda inputs: op(**inputs)[0], inputs)
    cotangent = np.random.default_rng(2).normal(size=y.shape)
    return y, backward(jnp.asarray(cotangent, y.dtype))[0]

  arrays = {name: jnp.asarray(x, dtype) for name, x in inputs.items()}
  with trace_for("cpu" if dtype == jnp.float64 else "gpu"):
    return jax.jit(with_tf32(both) if tf32 else both)(arrays)


def errors(found, expected) -> dict[str, float]:
  """The largest error of y and each gradient, relative to the largest value."""

  def error(x, exact):
    x, exact = (np.asarray(x, np.float64) for x in (x, exact))
    return float(np.max(np.abs(x - exact)) / np.max(np.abs(exact)))

  (y, gradients), (exact_y, exact) = found, expected
  return {"y": error(y, exact_y)} | {
    name: error(x, exact[name]) for name, x in gradients.items()
  }


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints one line per op, kind of keys and form."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.rounding", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--ops", nargs="+", choices=CASES, default=OPS)
  for op in flags.parse_args(arguments).ops:
    for alike in (False, True) if op.startswith("delta") else (False,):
      case = CASES[op]
      inputs = drawn(case, alike)
      with jax.enable_x64(True):
        exact = results(case, inputs, jnp.float64, "recurrent")
        exact = jax.tree.map(np.asarray, exact)
      for label, method, tf32 in (
        ("float32", "chunk_parallel", False),
        ("TF32, chunked", "chunked", True),
        ("TF32", "chunk_parallel", True),
      ):
        found = results(case, inputs, jnp.float32, method, tf32)
        line = ", ".join(
          f"{k} {x:.1e}" for k, x in errors(found, exact).items()
        )
        keys = ", alike keys" if alike else ""
        print(f"{op}{keys}, {label}: {line}", flush=True)
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
