"""`check_op` compares every form of an op with its definition."""

import functools
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import checks
from jaxmodels.testing import cases, report
from jaxmodels.testing.diagnosis import Outcome, diagnose, other_way
from jaxmodels.testing.errors import first_wrong, relative_error, tolerance
from jaxmodels.testing.evaluate import Evaluator, Run, default_shards, round_to
from jaxmodels.testing.probes import probe

Draw = Callable[[np.random.Generator, int], Mapping[str, np.ndarray]]


def check_op(
  op: Callable,
  definition: Callable,
  draw: Draw,
  *,
  forms: Iterable[str] = cases.FORMS,
  lengths: Sequence[int] | None = None,
  resets: Iterable[str] | None = None,
  chunk_size: int = 8,
  dtypes: Sequence[str] = ("float32",),
  reverse: bool = False,
  shards: int | None = None,
  whole: Collection[str] = (),
  seed: int = 0,
) -> None:
  """Checks values, final state and all gradients of an op in every form.

  Args:
    op: takes the drawn arguments by name and `segment_ids`, `reverse`,
      `method`, `chunk_size`, and `axis_name` for "sequence-parallel";
      returns (y [B, L, ...], final_state).
    definition: the same op, step by step; of these options it takes only
      `segment_ids` and `reverse`. It runs in float64.
    draw: `(rng, length) -> arguments` in float64 (or complex128), batch 2,
      one of which is `initial_state`.
    forms: the methods to check. "sequence-parallel" is "chunked" inside
      `shard_map`; it is skipped if there is only one device, and at lengths
      that the devices cannot share.
    lengths: L; by default around the edges of a chunk.
    resets: names in `cases.resets`; by default all of them.
    chunk_size: chunk size of the chunked forms.
    dtypes: dtypes of the arguments; complex arguments get the complex dtype.
    reverse: whether to run from the last token to the first.
    shards: devices for "sequence-parallel"; four, or as many as there are.
    whole: arguments without a length axis, such as parameters, besides
      `initial_state`.
    seed: seed of the drawn arguments.

  Raises:
    AssertionError: reports the failures, their places, and the likely cause;
      or names a drawn number that the op's own guards reject, such as a log
      decay above 0.
  """
  truth = _definition(definition, reverse)
  shards = shards or default_shards()
  tried = {
    form: Evaluator(
      op, form, shards, whole, chunk_size=chunk_size, reverse=reverse
    )
    for form in forms
    if form != cases.SHARDED or shards > 1
  }
  runs = [
    Run(length, name, ids, dtype, round_to(drawn, dtype), seed)
    for length in lengths or cases.lengths(chunk_size)
    for drawn in [draw(np.random.default_rng(seed), length)]
    for dtype in dtypes
    for name, ids in cases.resets(length, chunk_size).items()
    if resets is None or name in resets
  ]
  _check_numbers(runs[-1], op, tried)
  outcomes: list[Outcome] = []
  for run in runs:
    outcomes += _compare(run, truth, tried, reverse)
  outcomes.sort(key=lambda o: list(tried).index(o.form))
  guesses = {}
  for form in dict.fromkeys(o.form for o in outcomes if o.wrong):
    own = [o for o in outcomes if o.form == form]
    chunk = tried[form].chunk(max(run.length for run in runs))
    probes = probe(_longest_wrong(runs, own), truth, tried[form], reverse)
    guesses[form] = diagnose(own, probes, chunk)
  guesses |= other_way(outcomes)
  if guesses:
    raise AssertionError(report.write(outcomes, guesses))


def _check_numbers(
  run: Run, op: Callable, tried: Mapping[str, Evaluator]
) -> None:
  """Runs the op's own guards of numbers, such as of decays above 1."""
  arguments = jax.tree.map(jnp.asarray, dict(run.arguments))
  evaluate = next(iter(tried.values()))
  try:
    with checks.numerics(arguments_only=True):
      op(**arguments, segment_ids=run.ids, **evaluate.options)
  except checks.NumberError as error:
    raise AssertionError(
      f"{error}: the draw of length {run.length} is outside of what the op "
      "takes, so that no form need be right"
    ) from error


@functools.lru_cache(maxsize=16)
def _definition(definition: Callable, reverse: bool) -> Evaluator:
  """Caches the definition, which many checks use."""
  return Evaluator(definition, reverse=reverse)


def _compare(
  run: Run, truth: Evaluator, tried: Mapping[str, Evaluator], reverse: bool
) -> Iterator[Outcome]:
  """Compares all results of all forms in one run."""
  cotangents, wanted = run.truth(truth)
  allowed = tolerance(run.dtype)
  for form, evaluate in tried.items():
    if run.length % evaluate.shards:
      continue
    got = evaluate(run.arguments, run.ids, cotangents)
    for what, expected in wanted.items():
      error = relative_error(got[what], expected)
      first = None
      tokens = expected.ndim > 1 and expected.shape[1] == run.length
      if not error <= allowed and tokens and "state" not in what:
        first = first_wrong(got[what], expected, allowed, reverse)
      yield Outcome(
        form,
        run.length,
        run.resets,
        run.has_resets,
        run.dtype,
        what,
        error,
        allowed,
        first,
      )


def _longest_wrong(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> Run:
  """The most informative run: wrong values, no resets, many tokens."""
  wrong = {(o.length, o.resets, o.dtype) for o in outcomes if o.wrong}
  runs = [r for r in runs if (r.length, r.resets, r.dtype) in wrong]
  return max(runs, key=lambda r: (not r.has_resets, r.length))
