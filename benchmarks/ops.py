"""Times every op and method: `python -m benchmarks.ops`.

Times forward and gradient over several lengths, against a plain `lax.scan` of
the definition and softmax attention, in one process. `benchmarks/README.md`
explains the output.
"""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure, plots, targets
from benchmarks.cases import CASES, Sizes
from benchmarks.contest import BASELINES, SCAN, SOFTMAX, Contest, Limits, Result

_LENGTHS = (256, 1024, 4096, 16384, 65536)
_QUICK = {
  "ops": ["linear_attention", "delta_rule"],
  "methods": ["auto", "recurrent", "chunked", "chunk_parallel"],
  "baselines": [SCAN],
  "lengths": [4096],
  "repeats": 5,
  "budget": 4.0,
  "seconds": 10.0,
}
_DIRECTIONS = ("forward", "gradient")


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.ops", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--ops", nargs="+", choices=CASES, default=list(CASES))
  flags.add_argument("--methods", nargs="+", help="all by default")
  flags.add_argument("--lengths", nargs="+", type=int, default=_LENGTHS)
  flags.add_argument(
    "--directions", nargs="+", choices=_DIRECTIONS, default=_DIRECTIONS
  )
  flags.add_argument("--dtype", default="float32")
  flags.add_argument("--batch", type=int, default=2)
  flags.add_argument("--heads", type=int, default=4)
  flags.add_argument("--width", type=int, default=64)
  flags.add_argument("--repeats", type=int, default=7, help="rounds")
  flags.add_argument(
    "--budget",
    type=float,
    default=20,
    help="time for rounds per point, in seconds",
  )
  flags.add_argument(
    "--memory", type=float, default=4, help="memory limit per program, in GiB"
  )
  flags.add_argument(
    "--seconds", type=float, default=5, help="time limit per call"
  )
  flags.add_argument(
    "--baselines", nargs="*", choices=BASELINES, default=BASELINES
  )
  flags.add_argument("--json", help="file for all numbers")
  flags.add_argument("--plot", help="picture of time against length")
  flags.add_argument(
    "--quick", action="store_true", help="two ops, less than a minute"
  )
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns 1 if a target is missed."""
  options = parser().parse_args(arguments)
  if options.quick:
    vars(options).update(_QUICK)
  sizes = Sizes(options.batch, 0, options.heads, options.width)
  dtype = jnp.dtype(options.dtype)
  print(
    f"jax {jax.__version__} on {jax.devices()[0].device_kind}, "
    f"{platform.machine()}; batch {sizes.batch}, {sizes.heads} heads of "
    f"{sizes.width}x{sizes.width}, {dtype.name}"
  )
  results = _measure(options, sizes, dtype)
  verdicts = targets.verdicts(results, sizes)
  for verdict in verdicts:
    print(verdict.line())
  if options.json:
    _write_json(options.json, sizes, dtype, results, verdicts)
  if options.plot:
    plots.ops(results, options.plot)
  return int(any(verdict.passed is False for verdict in verdicts))


def _measure(options: argparse.Namespace, sizes: Sizes, dtype: Any):
  """Measures all points and prints each when it is done."""
  matmuls = measure.matmuls(dtype)
  limits = Limits(options.memory * 2**30, options.seconds)
  results = []
  for op in options.ops:
    for direction in options.directions:
      contest = Contest(
        CASES[op],
        direction,
        methods=options.methods,
        baselines=options.baselines,
        limits=limits,
        dtype=dtype,
      )
      for length in sorted(options.lengths):
        point = contest.run(
          dataclasses.replace(sizes, length=length),
          matmuls,
          options.repeats,
          options.budget,
        )
        print(f"\n{table(point)}", flush=True)
        results += point
  print()
  return results


def table(point: Sequence[Result]) -> str:
  """The contenders at one point, as text."""
  first = point[0]
  lines = [
    f"{first.op} {first.direction}, length {first.length}",
    f"  {'':15} {'ms':>9} {'min ms':>9} {'ns/token':>9} {'x scan':>7} "
    f"{'x assoc':>7} {'x soft':>7} {'x limit':>8} {'compile':>8} {'MiB':>8}",
  ]
  for result in point:
    if result.skipped:
      lines.append(f"  {result.name:15} skipped: {result.skipped}")
    else:
      lines.append(_row(result))
  return "\n".join(lines)


def _row(result: Result) -> str:
  """One contender; ratios are its time divided by that of others."""
  against = (SCAN, "associative", SOFTMAX)
  ratios = (_number(result.against.get(name), 7, 2) for name in against)
  note = f"  is {result.same_as}" if result.same_as else ""
  return (
    f"  {result.name:15} {1e3 * result.median:9.2f} "
    f"{1e3 * result.minimum:9.2f} {1e9 * result.per_token:9.1f} "
    f"{' '.join(ratios)} {_number(result.limit, 8, 1)} "
    f"{result.compile:6.2f} s {result.bytes / 2**20:8.1f}{note}"
  )


def _number(x: float | None, width: int, digits: int) -> str:
  return " " * (width - 1) + "-" if x is None else f"{x:{width}.{digits}f}"


def _write_json(path, sizes, dtype, results, verdicts) -> None:
  content = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "batch": sizes.batch,
    "heads": sizes.heads,
    "width": sizes.width,
    "dtype": dtype.name,
    "baselines": BASELINES,
    "results": [dataclasses.asdict(result) for result in results],
    "targets": [verdict._asdict() for verdict in verdicts],
  }
  with open(path, "w") as file:
    json.dump(content, file, indent=1)


if __name__ == "__main__":
  sys.exit(main())
