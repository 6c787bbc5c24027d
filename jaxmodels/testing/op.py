"""`check_op`: every form of an op against its definition."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.testing import cases
from jaxmodels.testing.errors import relative_error, tolerance, widest

Draw = Callable[[np.random.Generator, int], Mapping[str, np.ndarray]]


class Failure(NamedTuple):
  """One comparison that failed."""

  form: str
  length: int
  resets: str
  dtype: str
  what: str
  error: float
  tolerance: float

  def __str__(self) -> str:
    return (
      f"{self.form}, length {self.length}, resets {self.resets}, "
      f"{self.dtype}: {self.what} is off by {self.error:.1e} "
      f"(allowed {self.tolerance:.0e})"
    )


def check_op(
  op: Callable,
  definition: Callable,
  draw: Draw,
  *,
  forms: Iterable[str] = cases.FORMS,
  lengths: Sequence[int] | None = None,
  chunk_size: int = 8,
  dtypes: Sequence[str] = ("float32",),
  reverse: bool = False,
  seed: int = 0,
) -> None:
  """Checks values, final state and all gradients of an op in every form.

  Args:
    op: takes the drawn arguments by name and `segment_ids`, `reverse`,
      `method`, `chunk_size`; returns (y [B, L, ...], final_state).
    definition: the same step by step, without `method` and `chunk_size`;
      it is run in float64.
    draw: `(rng, length) -> arguments` in float64 (or complex128), batch 2,
      one of which is `initial_state`.
    forms: the methods to check.
    lengths: L; by default around the edges of a chunk.
    chunk_size: for the chunked forms.
    dtypes: of the arguments; a complex argument takes the complex one.
    reverse: from the last token to the first.
    seed: of the drawn arguments.

  Raises:
    AssertionError: lists each comparison that failed.
  """
  failures: list[Failure] = []
  truth = _Evaluator(definition, reverse=reverse)
  tried = {
    form: _Evaluator(op, method=form, chunk_size=chunk_size, reverse=reverse)
    for form in forms
  }
  for length, dtype in itertools.product(
    lengths or cases.lengths(chunk_size), dtypes
  ):
    rng = np.random.default_rng(seed)
    arguments = round_to(draw(rng, length), dtype)
    for name, ids in cases.resets(length, chunk_size).items():
      batch = None if ids is None else np.stack([ids, 0 * ids])
      with jax.enable_x64(True):
        exact = jax.tree.map(widest, arguments)
        cotangents = draw_like(rng, jax.eval_shape(truth.outputs, exact, batch))
        wanted = truth(exact, batch, cotangents)
      for form, evaluate in tried.items():
        got = evaluate(arguments, batch, cotangents)
        failures += [
          Failure(form, length, name, dtype, what, error, tolerance(dtype))
          for what, expected in wanted.items()
          if (error := relative_error(got[what], expected)) > tolerance(dtype)
        ]
  if failures:
    raise AssertionError("\n".join(map(str, failures)))


class _Evaluator:
  """Outputs and gradients of an op, compiled once for each shape."""

  def __init__(self, function: Callable, **options: Any):
    self._function = function
    self._options = options
    self._compiled = jax.jit(self._evaluate)

  def outputs(self, arguments, segment_ids):
    """(y, final_state)."""
    return self._function(**arguments, segment_ids=segment_ids, **self._options)

  def _evaluate(self, arguments, segment_ids, cotangents):
    outputs, pull_back = jax.vjp(
      lambda arguments: self.outputs(arguments, segment_ids), arguments
    )
    cotangents = jax.tree.map(
      lambda c, o: c.astype(o.dtype), cotangents, outputs
    )
    (gradients,) = pull_back(cotangents)
    return {
      **named("y", outputs[0]),
      **named("final_state", outputs[1]),
      **named("gradient of ", gradients),
    }

  def __call__(self, arguments, segment_ids, cotangents):
    results = self._compiled(arguments, segment_ids, cotangents)
    return jax.tree.map(np.asarray, results)


def named(prefix: str, tree: Any) -> dict[str, Any]:
  """The leaves of a pytree by their path behind a prefix."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    prefix + jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in leaves
  }


def round_to(arguments: Mapping[str, Any], dtype: str) -> dict[str, Any]:
  """Arguments in a dtype, or in the complex dtype of its precision."""
  complex_dtype = "complex128" if dtype == "float64" else "complex64"

  def cast(x):
    return x.astype(complex_dtype if np.iscomplexobj(x) else jnp.dtype(dtype))

  return jax.tree.map(cast, dict(arguments))


def draw_like(rng: np.random.Generator, shapes: Any) -> Any:
  """Normal numbers in float64 (or complex128) of the shapes of a pytree."""

  def draw(x):
    noise = rng.standard_normal(x.shape)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
      noise = noise + 1j * rng.standard_normal(x.shape)
    return noise

  return jax.tree.map(draw, shapes)
