"""Times our ops against other implementations, with the same inputs.

    make peers
    python -m benchmarks.peers --length 2048 --case "gated delta rule" KDA

Outputs and gradients are first compared with ours, and with the definition in
float64. A peer that differs from ours by more than the tests allow is reported
and not timed. A peer that is not installed is skipped (CONTRIBUTING explains
how to install them). All programs run once per round in one process, in a new
random order per round, so that other work affects all of them alike. Compare
the ratios, which are medians over rounds. PyTorch peers run uncompiled.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence

import jax

from benchmarks.peers.cases import CASES, HARD, HARD_LENGTH, Case
from benchmarks.peers.contest import ALLOWED, Row, measure
from benchmarks.peers.page import page, table


def parser(cases: Sequence[str]) -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.peers",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  flags.add_argument("--case", nargs="+", choices=cases)
  flags.add_argument("--length", nargs="+", type=int, default=[4096])
  flags.add_argument("--batch", type=int, default=1)
  flags.add_argument("--rounds", type=int, default=5, help="number of rounds")
  flags.add_argument(
    "--limit", type=float, default=10.0, help="time limit per call, in seconds"
  )
  flags.add_argument("--out", type=pathlib.Path, help="the page to write")
  flags.add_argument("--json", type=pathlib.Path, help="file for all numbers")
  flags.add_argument(
    "--have", type=pathlib.Path, help="file of --json with cases not to rerun"
  )
  return flags


def main(
  argv: Sequence[str] | None = None,
  cases: Mapping[str, Case] = CASES,
  hard: Mapping[str, Case] = HARD,
) -> list[Row]:
  """Runs the command; returns the rows."""
  argv = sys.argv[1:] if argv is None else argv
  flags = parser([*cases, *hard]).parse_args(argv)
  have = json.loads(flags.have.read_text()) if flags.have else []
  kept: dict[tuple[str, int, int], list[Row]] = {}
  for row in (Row(**one) for one in have):
    kept.setdefault((row.case, row.batch, row.length), []).append(row)
  rows: list[Row] = []
  for name in flags.case or [*cases, *hard]:
    timed = name in cases
    for length in flags.length if timed else [HARD_LENGTH]:
      new = kept.get((name, flags.batch, length)) or measure(
        name,
        cases[name] if timed else hard[name],
        flags.batch,
        length,
        flags.rounds if timed else 0,
        flags.limit if timed else math.inf,
        ALLOWED if timed else math.inf,
      )
      rows += new
      print(table(new), flush=True)
      # After each case, so that an interrupted run keeps its results.
      if flags.json:
        text = json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
        flags.json.write_text(text + "\n")
  if flags.out:
    flags.out.write_text(page(rows, shlex.join(_without_files(argv))))
  return rows


def _without_files(argv: Sequence[str]) -> list[str]:
  """Without --json and --have: runs that were joined are one run's results."""
  pairs = zip([None, *argv], argv, strict=False)
  files = "--json", "--have"
  return [x for last, x in pairs if x not in files and last not in files]


if __name__ == "__main__":
  # ejkernel switches it on, and the seconds to compile would be those to read.
  jax.config.update("jax_enable_compilation_cache", False)
  main()
