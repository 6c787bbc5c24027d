"""Memory and cycles of every mixer's gradient on TPUs that are not there.

    python -m benchmarks.tpu_mixers --out benchmarks/TPU_MIXERS.md

compiles the gradient of one layer of each mixer, as "auto" chooses its forms,
and once more without kernels if it has any. `benchmarks/README.md` explains the
table.
"""

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import growth
from benchmarks.tpu import Compiler, Cost, put
from jaxmodels.analysis import chips
from jaxmodels.mixers import MIXERS


@dataclasses.dataclass
class Row:
  """The gradient of one mixer on one chip.

  Attributes:
    mixer: its name.
    slice: the chip is the first one of this slice.
    kernels: whether "auto" may take kernels.
    cost: of the gradient.
  """

  mixer: str
  slice: str
  kernels: bool
  cost: Cost

  @property
  def key(self) -> tuple[str, str, bool]:
    """What names the row."""
    return self.mixer, self.slice, self.kernels


def gradient(
  mixer: str, batch: int, length: int, width: int, heads: int
) -> Any:
  """The gradient of a layer in bfloat16, and the shapes of its arguments.

  Args:
    mixer: a name in `jaxmodels.mixers.MIXERS`.
    batch: B.
    length: L; mixers of images take a square of as many tokens.
    width: D.
    heads: for mixers with heads of equal width; others keep their own.
  """
  given = {
    "heads": heads,
    "max_length": length,  # The cache of softmax attention.
    "columns": round(length**0.5),
  }
  defaults = {x.name: x.default for x in dataclasses.fields(MIXERS[mixer])}
  options = {name: x for name, x in given.items() if name in defaults}
  if defaults.get("heads") in (None, 1):
    options.pop("heads", None)
  if defaults.get("window"):
    options.pop("max_length", None)
  return growth.gradient(mixer, length, width, batch, jnp.bfloat16, **options)


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.tpu_mixers",
    description=__doc__.splitlines()[0],
  )
  flags.add_argument(
    "--mixers", nargs="+", choices=MIXERS, default=list(MIXERS)
  )
  flags.add_argument(
    "--slices", nargs="+", default=["v5e:2x2", "v5p:2x2x1", "v6e:2x2"]
  )
  flags.add_argument("--batch", type=int, default=2)
  flags.add_argument("--length", type=int, default=4096)
  flags.add_argument("--width", type=int, default=1024)
  flags.add_argument("--heads", type=int, default=8)
  flags.add_argument(
    "--without-kernels",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="whether to compile mixers with kernels also without them",
  )
  flags.add_argument(
    "--limit", type=float, default=600, help="seconds of each compilation"
  )
  flags.add_argument("--json", help="file for all numbers")
  flags.add_argument(
    "--have",
    nargs="+",
    default=(),
    metavar="FILE",
    help="files of --json from the same code; their rows are kept",
  )
  flags.add_argument("--out", help="file for the page; printed without it")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command."""
  options = parser().parse_args(arguments)
  if not chips.is_there():
    print(chips.MISSING, file=sys.stderr)
    return 1
  words = shlex.join(sys.argv[1:] if arguments is None else arguments)
  rows = {row.key: row for file in options.have for row in read(file)}
  with Compiler(options.limit) as compiler:
    for name, mixer in itertools.product(options.slices, options.mixers):
      for kernels in (True, False):
        key = mixer, name, kernels
        if key not in rows:
          rows[key] = _row(compiler, options, *key)
        if options.json:  # After each row, for a run that is interrupted.
          _write(options.json, words, rows.values())
        if not rows[key].cost.kernels or not options.without_kernels:
          break
  text = page(list(rows.values()), options, words)
  put(text, options.out)
  return 0


def _row(compiler, options, mixer, name, kernels):
  sizes = options.batch, options.length, options.width, options.heads
  cost = compiler.cost(name, gradient, mixer, *sizes, kernels=kernels)
  print(mixer, name, kernels, cost, file=sys.stderr, flush=True)
  return Row(mixer, name, kernels, cost)


def _write(path: str, words: str, rows: Iterable[Row]) -> None:
  content = {
    "jax": jax.__version__,
    "command": f"python -m benchmarks.tpu_mixers {words}",
    "rows": [
      dataclasses.asdict(row) | {"cost": row.cost._asdict()} for row in rows
    ],
  }
  with open(path, "w") as file:
    json.dump(content, file, indent=1)


def read(path: str) -> list[Row]:
  """The rows that `--json` wrote."""
  with open(path) as file:
    rows = json.load(file)["rows"]
  return [Row(**row | {"cost": Cost(**row["cost"])}) for row in rows]


# The page.


def page(rows: Sequence[Row], options: Any, words: str) -> str:
  """The table, in markdown."""
  names = sorted({row.slice for row in rows})
  cells = ["mixer", "kernels"]
  for name in names:
    cells += [f"{_chip(name)} {unit}" for unit in ("MiB", "cycles/token")]
  found = {row.key: row.cost for row in rows}
  kinds = sorted(
    {(row.mixer, row.kernels) for row in rows}, key=_order(found, names)
  )
  lines = [
    "# Mixers on TPUs",
    "",
    f"Written by `python -m benchmarks.tpu_mixers {words}`.",
    "",
    f"jax {jax.__version__}; gradients of one layer by its parameters and x, "
    f"of {options.batch} rows of {options.length} tokens, width "
    f"{options.width}, in bfloat16. Mixers with a number of heads have "
    f"{options.heads}; other fields have their defaults, and images are "
    "square. MiB is the temporary memory. Cycles are those that the compiler "
    "estimates, and for kernels the bundles of instructions that it "
    "scheduled; all branches of a condition count, and waits for memory do "
    'not. A row without kernels has the forms that "auto" takes where no '
    "kernel fits. Empty cells were not compiled. Sorted by cycles with "
    "kernels. No chip has run these programs.",
    "",
    _join(cells),
    _join(["---"] * 2 + ["---:"] * (len(cells) - 2)),
  ]
  tokens = options.batch * options.length
  for mixer, kernels in kinds:
    costs = [found.get((mixer, name, kernels)) for name in names]
    which = "yes" if any(x and x.kernels for x in costs) else "no"
    parts = [part for cost in costs for part in _cells(cost, tokens)]
    lines.append(_join([mixer, which, *parts]))
  failed = [
    f"- {row.mixer}, {_chip(row.slice)}: {row.cost.failed}"
    for row in rows
    if row.cost.failed
  ]
  if failed:
    lines += ["", "Without figures:", "", *failed]
  return "\n".join(lines) + "\n"


def _order(found: dict[Any, Cost], names: Sequence[str]):
  """By the cycles on the first chip, without kernels below with kernels."""

  def key(kind: tuple[str, bool]):
    mixer, kernels = kind
    cost = found.get((mixer, names[0], True), Cost())
    unknown = cost.failed is not None
    return unknown, cost.cycles + cost.kernel_cycles, mixer, not kernels

  return key


def _cells(cost: Cost | None, tokens: int) -> tuple[str, str]:
  if cost is None or cost.failed:
    return "", ""
  cycles = (cost.cycles + cost.kernel_cycles) / tokens
  return f"{cost.temp_bytes / 2**20:,.1f}", f"{cycles:,.0f}"


def _chip(name: str) -> str:
  return name.partition(":")[0]


def _join(cells: Iterable[str]) -> str:
  return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
  sys.exit(main())
