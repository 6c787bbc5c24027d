"""Times the methods of an op, its plain scan and softmax attention."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, programs
from benchmarks.cases import CASES, Case, Sizes
from jaxmodels import ops
from jaxmodels.analysis import flops

SCAN, SOFTMAX, FULL_SOFTMAX = "lax.scan", "softmax", "jax.nn softmax"
BASELINES = (SCAN, SOFTMAX, FULL_SOFTMAX)


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits above which a contender is left out.

  Attributes:
    bytes: memory besides arguments and results.
    seconds: time per call.
  """

  bytes: float = 4 * 2**30
  seconds: float = 5.0


@dataclasses.dataclass
class Result:
  """One contender at one length; without numbers if it was left out.

  Attributes:
    op: name of the case.
    direction: "forward" or "gradient".
    length: L.
    name: a method, or one of `BASELINES`.
    same_as: for "auto", the method with the same program, if there is one.
    skipped: the reason, if it was left out.
    median: seconds per call.
    minimum: seconds per call.
    per_token: median seconds per token.
    compile: seconds for tracing and compiling.
    bytes: temporary memory of the compiled program.
    flops: counted per call; None if a part of the program is unknown.
    against: time of this contender divided by that of each other one, by
      name: the median over rounds.
    limit: time divided by the time that its flops would take at the best
      rate of the matrix products of the same rounds.
  """

  op: str
  direction: str
  length: int
  name: str
  same_as: str | None = None
  skipped: str | None = None
  median: float | None = None
  minimum: float | None = None
  per_token: float | None = None
  compile: float | None = None
  bytes: int | None = None
  flops: float | None = None
  against: dict[str, float] = dataclasses.field(default_factory=dict)
  limit: float | None = None


class Contest:
  """The contenders of one op and direction, from length to length.

  The cost at one length predicts the cost at the next. A contender that would
  exceed a limit is left out without being compiled.
  """

  def __init__(
    self,
    case: Case,
    direction: str,
    *,
    methods: Iterable[str] | None = None,
    baselines: Iterable[str] = BASELINES,
    limits: Limits = Limits(),
    dtype: Any = jnp.float32,
  ):
    self.case, self.direction = case, direction
    self.methods = [m for m in case.methods if methods is None or m in methods]
    self.baselines = tuple(baselines)
    self.limits, self.dtype = limits, dtype
    self._needed: dict[str, Result] = {}

  def run(
    self,
    sizes: Sizes,
    matmuls: Mapping[str, programs.Program],
    repeats: int,
    budget: float,
  ) -> list[Result]:
    """Compiles and times all contenders at one length."""
    results: list[Result] = []
    built: dict[str, programs.Program] = {}
    for name, (op, inputs) in self._contenders(sizes).items():
      result = Result(self.case.name, self.direction, sizes.length, name)
      results.append(result)
      self._build(result, op, inputs, built)
    times, slow = measure.interleave(
      {name: program.run for name, program in (matmuls | built).items()},
      repeats,
      budget,
      self.limits.seconds,
    )
    rate = max(
      (p.flops / np.median(times[n]) for n, p in matmuls.items() if n in times),
      default=0.0,
    )
    for result in results:
      own = result.same_as or result.name
      if own in slow:
        result.skipped = _too_slow(slow[own], self.limits)
        result.median = slow[own]
      _fill(result, times, rate, sizes.tokens)
      self._needed[result.name] = result
    return results

  def _contenders(self, sizes: Sizes) -> dict[str, tuple[Callable, Any]]:
    """Ops and inputs by name; "auto" last, to be compared with the others."""
    inputs = self.case.inputs(sizes, self.dtype)
    named = sorted(self.methods, key=lambda method: method == "auto")
    found = {name: (_with(self.case.op, name), inputs) for name in named}
    attended = CASES["attention"].inputs(sizes, self.dtype)
    found[SOFTMAX] = (_with(ops.attention, "auto"), attended)
    found[FULL_SOFTMAX] = (_full_softmax, attended)
    if self.case.definition is not None:
      found[SCAN] = (self.case.definition, inputs)
    wanted = (*named, *self.baselines)
    return {name: found[name] for name in wanted if name in found}

  def _build(self, result, op, inputs, built) -> None:
    """Compiles into `built`, or writes the reason for skipping it."""
    result.skipped = self._forecast(result)
    if result.skipped:
      return
    try:
      function, arguments = programs.directions(op, inputs)[self.direction]
      program = programs.build(programs.lower(function, *arguments))
    except ValueError as error:  # An op raises it if a method cannot run.
      result.skipped = str(error)
      return
    same = [n for n, other in built.items() if other.text == program.text]
    result.same_as = same[0] if same else None
    result.compile = program.compile_seconds
    result.bytes = program.temp_bytes
    counted = flops.count(function, *arguments)
    result.flops = None if counted.unknown else counted.total
    if result.bytes > self.limits.bytes:
      result.skipped = _too_large(result.bytes, self.limits)
    elif not same:
      built[result.name] = program

  def _forecast(self, result: Result) -> str | None:
    """The reason not to compile, predicted from a shorter length."""
    before = self._needed.get(result.name)
    if before is None:
      return None
    if before.bytes is None:
      return before.skipped
    growth = result.length / before.length
    if before.bytes * growth > self.limits.bytes:
      return _too_large(before.bytes * growth, self.limits)
    if before.median is None:
      return before.skipped
    if before.median * growth > self.limits.seconds:
      return _too_slow(before.median * growth, self.limits)
    return None


def _with(op: Callable, method: str) -> Callable:
  return lambda **inputs: op(**inputs, method=method)


def _full_softmax(q, k, v):
  """Attention of `jax.nn`, which computes all scores at once."""
  y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
  return y, ()


def _too_large(needed: float, limits: Limits) -> str:
  return (
    f"needs {needed / 2**30:.1f} GiB; the limit is "
    f"{limits.bytes / 2**30:.1f} GiB"
  )


def _too_slow(needed: float, limits: Limits) -> str:
  return f"needs {needed:.1f} s per call; the limit is {limits.seconds:g} s"


def _fill(result, times, rate, tokens) -> None:
  """Writes the timings into a result."""
  own = times.get(result.same_as or result.name)
  if result.skipped or own is None:
    return
  result.median, result.minimum = float(np.median(own)), float(own.min())
  result.per_token = result.median / tokens
  if result.flops and rate:
    result.limit = result.median * rate / result.flops
  result.against = {
    name: measure.ratio(own, other)
    for name, other in times.items()
    if name != result.name and "matmul" not in name
  }
