"""Checks measurements against the targets of the ops."""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.cases import Sizes
from benchmarks.contest import BASELINES, SCAN, Result

# The sizes at which the speed targets apply.
SIZES = Sizes(batch=2, length=4096, heads=4, width=64)
SPEEDUP = {"linear_attention": 8.0, "delta_rule": 4.0}
COMPILE_SECONDS = 2.0
AUTO_MARGIN = 1.1


class Verdict(NamedTuple):
  """A target and its result; `passed` is None if it was not measured."""

  target: str
  passed: bool | None
  figure: str

  def line(self) -> str:
    """The line to print."""
    word = {True: "pass", False: "FAIL", None: "not measured"}[self.passed]
    return f"{word:12} {self.target}: {self.figure}"


def verdicts(results: Iterable[Result], sizes: Sizes) -> list[Verdict]:
  """The verdicts on all targets that the results cover.

  Args:
    results: the results of a run.
    sizes: the sizes of the run; the length is ignored.
  """
  results = list(results)
  found = [_auto_is_best(result, results) for result in _autos(results)]
  if (sizes.batch, sizes.heads, sizes.width) != (
    SIZES.batch,
    SIZES.heads,
    SIZES.width,
  ):
    return found
  stated = [r for r in results if r.length == SIZES.length]
  found += [_speedup(op, least, stated) for op, least in SPEEDUP.items()]
  for auto in _autos(stated):
    if auto.direction == "gradient":
      found.append(_compiles(auto))
    elif "recurrent" in auto.against or auto.same_as == "recurrent":
      found.append(_beats_recurrent(auto))
  return found


def _autos(results: Iterable[Result]) -> list[Result]:
  return [r for r in results if r.name == "auto" and not r.skipped]


def _place(result: Result) -> str:
  return f"{result.op} {result.direction} at {result.length}"


def _auto_is_best(auto: Result, results: Iterable[Result]) -> Verdict:
  """Whether "auto" is within the margin of the fastest method."""
  methods = [n for n in auto.against if n not in BASELINES]
  slower = {n: auto.against[n] for n in methods}
  worst = max(slower, key=slower.__getitem__, default=None)
  percent = round(100 * (AUTO_MARGIN - 1))
  target = f"auto within {percent}% of the best, {_place(auto)}"
  if worst is None:
    return Verdict(target, None, "no other method")
  takes = slower[worst]
  is_one = f" (auto is {auto.same_as})" if auto.same_as else ""
  return Verdict(
    target, takes <= AUTO_MARGIN, f"{takes:.2f}x the time of {worst}{is_one}"
  )


def _speedup(op: str, least: float, results: Iterable[Result]) -> Verdict:
  target = f"{op} gradient at {SIZES.length} {least:g}x faster than {SCAN}"
  for auto in _autos(results):
    takes = auto.against.get(SCAN)
    if (auto.op, auto.direction) == (op, "gradient") and takes:
      return Verdict(target, 1 / takes >= least, f"{1 / takes:.1f}x")
  return Verdict(target, None, "-")


def _compiles(auto: Result) -> Verdict:
  return Verdict(
    f"compile below {COMPILE_SECONDS:g} s, {_place(auto)}",
    auto.compile < COMPILE_SECONDS,
    f"{auto.compile:.2f} s",
  )


def _beats_recurrent(auto: Result) -> Verdict:
  takes = auto.against.get("recurrent", 1.0)
  return Verdict(
    f"auto not slower than recurrent, {_place(auto)}",
    takes <= 1,
    f"{takes:.2f}x its time",
  )
