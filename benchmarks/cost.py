"""Measures the cost of every op by compiling it: `python -m benchmarks.cost`.

Counts flops per token, temporary memory on the CPU and on a TPU v5e chip, and
the cycles that the TPU's compiler estimates; no TPU is needed. With
`--platforms gpu`: memory and launches on an NVIDIA H100; no GPU is needed.
`benchmarks/README.md` explains the columns.
"""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from benchmarks import programs, tpu
from benchmarks.cases import CASES, Case, Sizes
from jaxmodels.analysis import chips, flops
from jaxmodels.analysis.cycles import expected_cycles
from jaxmodels.analysis.launches import launches

_DTYPES = ("float32", "bfloat16")
_DIRECTIONS = ("forward", "gradient")
_PLATFORMS = ("cpu", "tpu")  # By default.
_MISSING = {"tpu": chips.MISSING, "gpu": chips.MISSING_GPU}
_CHIPS = {"tpu": "v5e:2x2", "gpu": "h100:1"}


@dataclasses.dataclass
class Memory:
  """Temporary memory of a program, or the reason why it is unknown.

  Attributes:
    bytes: at the longest length.
    per_token: bytes per additional token, if there are two lengths.
    failed: the error, if it does not compile.
  """

  bytes: int | None = None
  per_token: float | None = None
  failed: str | None = None


@dataclasses.dataclass
class Row:
  """One op, direction, dtype and method.

  Attributes:
    op: name of the case.
    direction: "forward" or "gradient".
    dtype: of all inputs.
    method: form of the op.
    flops_per_token: for all heads.
    memory: by platform.
    cycles_per_token: on a TPU, see `jaxmodels.analysis.cycles`; without
      kernels.
    launches: on a GPU at the longest length, see `jaxmodels.analysis.launches`.
    skipped: the reason, if there are no figures.
  """

  op: str
  direction: str
  dtype: str
  method: str
  flops_per_token: float | None = None
  memory: dict[str, Memory] = dataclasses.field(default_factory=dict)
  cycles_per_token: float | None = None
  launches: int | None = None
  skipped: str | None = None


def row(
  case: Case,
  direction: str,
  dtype: str,
  method: str,
  sizes: Sizes,
  lengths: Sequence[int],
  platforms: Sequence[str] = ("cpu",),
) -> Row:
  """Compiles one row and counts its cost.

  Args:
    case: the op.
    direction: "forward" or "gradient".
    dtype: of all inputs.
    method: of the op.
    sizes: all sizes except the length.
    lengths: one, or two, the shorter first.
    platforms: the platforms to compile for: "cpu", "tpu" or "gpu".
  """
  made = Row(case.name, direction, dtype, method)

  def program(length: int):
    shapes = case.shapes(dataclasses.replace(sizes, length=length), dtype)
    op = lambda **inputs: case.op(**inputs, method=method)  # noqa: E731
    return programs.directions(op, shapes)[direction]

  try:
    with tpu.traced_for(_CHIPS.get(_counted_for(platforms))):
      function, arguments = program(lengths[-1])
      counted = flops.count(function, *arguments)
  except ValueError as error:  # An op raises it if a method cannot run.
    made.skipped = str(error)
    return made
  tokens = sizes.batch * lengths[-1]
  made.flops_per_token = counted.total / tokens
  for platform in platforms:
    if method == "pallas" and platform != "tpu":
      # A CPU interprets kernels: its memory is no indication. None is for GPUs.
      continue
    try:
      where = _CHIPS.get(platform)
      with tpu.traced_for(where):
        built = [tpu.build(where, *program(n)) for n in lengths]
    except jax.errors.JaxRuntimeError as error:
      made.memory[platform] = Memory(failed=str(error).splitlines()[0])
      continue
    long = built[-1]
    grown = long.temp_bytes - built[0].temp_bytes
    more = tokens - sizes.batch * lengths[0]
    slope = grown / more if more else None
    made.memory[platform] = Memory(long.temp_bytes, slope)
    if platform == "tpu" and method != "pallas":
      made.cycles_per_token = expected_cycles(long.text) / tokens
    if platform == "gpu":
      made.launches = launches(long.text)
  return made


def _counted_for(platforms: Sequence[str]) -> str:
  """The platform by whose chunks flops are counted: the only one, or a CPU."""
  return platforms[0] if len(platforms) == 1 else "cpu"


# The page.

_NOTES = {
  "tpu": " On a TPU, ops with a matrix state take chunks of 128; kernels run"
  " only there, and their flops are counted as a TPU computes them. Cycles are"
  " the estimate of the TPU's compiler per token, at the longer length.",
  "gpu": " On a GPU, launches are those of kernels, copies and libraries at the"
  " longer length, counted from the program; nothing is autotuned.",
}


def page(rows: Sequence[Row], sizes: Sizes, lengths, platforms) -> str:
  """The tables, in markdown."""
  measured = " and ".join(map(str, lengths))
  lines = [
    f"jax {jax.__version__}; batch {sizes.batch}, {sizes.heads} heads of "
    f"{sizes.width}x{sizes.width}, lengths {measured}. "
    "Flops are per token, for all heads, with the chunks of a "
    f"{_counted_for(platforms).upper()}. MiB is the temporary memory at the "
    "longer length, and B/token the memory per additional token."
    + "".join(text for name, text in _NOTES.items() if name in platforms),
  ]
  for direction in dict.fromkeys(row.direction for row in rows):
    lines += ["", f"## {direction.capitalize()}", "", *_head(platforms)]
    lines += [
      _line(row, platforms)
      for row in rows
      if row.direction == direction and not row.skipped
    ]
  skipped = list(dict.fromkeys(row.skipped for row in rows if row.skipped))
  if skipped:
    lines += ["", "Left out:", "", *(f"- {reason}" for reason in skipped)]
  return "\n".join(lines) + "\n"


def _head(platforms: Sequence[str]) -> list[str]:
  names = [f"{p.upper()} {unit}" for p in platforms for unit in _UNITS]
  if "tpu" in platforms:
    names.append("TPU cycles/token")
  if "gpu" in platforms:
    names.append("GPU launches")
  cells = ["op", "dtype", "method", "flops/token", *names]
  rule = ["---"] * 3 + ["---:"] * (len(cells) - 3)
  return [_join(cells), _join(rule)]


_UNITS = ("MiB", "B/token")


def _line(row: Row, platforms: Sequence[str]) -> str:
  cells = [row.op, row.dtype, row.method, f"{row.flops_per_token:,.0f}"]
  for platform in platforms:
    memory = row.memory.get(platform)
    if memory is None:
      cells += ["", ""]
    elif memory.failed:
      cells += ["does not fit" if _is_full(memory) else "fails", ""]
    else:
      slope = memory.per_token
      cells += [
        f"{memory.bytes / 2**20:.1f}",
        "" if slope is None else f"{slope:,.0f}",
      ]
  if "tpu" in platforms:
    cycles = row.cycles_per_token
    cells.append("" if cycles is None else f"{cycles:,.0f}")
  if "gpu" in platforms:
    cells.append("" if row.launches is None else f"{row.launches:,}")
  return _join(cells)


def _is_full(memory: Memory) -> bool:
  return "RESOURCE_EXHAUSTED" in memory.failed


def _join(cells: Iterable[str]) -> str:
  return f"| {' | '.join(cells)} |"


# The command.


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.cost", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--ops", nargs="+", choices=CASES, default=list(CASES))
  flags.add_argument(
    "--methods",
    nargs="+",
    help='by default all except "auto", which equals one of them',
  )
  for name, all_ in (("dtypes", _DTYPES), ("directions", _DIRECTIONS)):
    flags.add_argument(f"--{name}", nargs="+", choices=all_, default=all_)
  flags.add_argument(
    "--platforms",
    nargs="+",
    choices=(*_PLATFORMS, "gpu"),
    default=_PLATFORMS,
  )
  flags.add_argument(
    "--lengths",
    nargs="+",
    type=int,
    default=(4096, 8192),
    help="two, or one: then without the memory per additional token",
  )
  flags.add_argument("--batch", type=int, default=2)
  flags.add_argument("--heads", type=int, default=4)
  flags.add_argument("--width", type=int, default=64)
  flags.add_argument(
    "--have",
    nargs="+",
    default=(),
    metavar="FILE",
    help="files of --json from the same code; skips the rows that they have",
  )
  flags.add_argument("--out", help="file for the page, in markdown")
  flags.add_argument("--json", help="file for all numbers")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command."""
  if arguments is None:
    arguments = sys.argv[1:]
  options = parser().parse_args(arguments)
  platforms = list(options.platforms)
  for platform, missing in _MISSING.items():
    if platform in platforms and not chips.is_there(platform):
      print(missing, file=sys.stderr)
      platforms.remove(platform)
  sizes = Sizes(options.batch, 0, options.heads, options.width)
  lengths = sorted(set(options.lengths))
  if len(lengths) > 2:
    parser().error("--lengths takes one length or two")
  command = shlex.join(["python", "-m", "benchmarks.cost", *arguments])
  had = {_key(one): one for file in options.have for one in read(file)}
  rows: list[Row] = []
  chosen = list(_chosen(options))
  for case, *what in chosen:
    made = had.get((case.name, *what))
    if made is None:
      made = row(case, *what, sizes, lengths, platforms)
    print(made.skipped or _line(made, platforms), flush=True)
    rows.append(made)
    # After each row, so that an interrupted run keeps its rows.
    if options.out:
      text = page(rows, sizes, lengths, platforms)
      if len(rows) < len(chosen):
        text = f"Cut short: {len(rows)} of {len(chosen)} rows.\n\n{text}"
      with open(options.out, "w") as file:
        file.write(f"# Cost of the ops\n\nWritten by `{command}`.\n\n{text}")
    if options.json:
      _write(options.json, command, rows)
  return 0


def _key(row: Row) -> tuple[str, ...]:
  return row.op, row.direction, row.dtype, row.method


def _write(path: str, command: str, rows: Iterable[Row]) -> None:
  content = {
    "jax": jax.__version__,
    "command": command,
    "rows": [dataclasses.asdict(row) for row in rows],
  }
  with open(path, "w") as file:
    json.dump(content, file, indent=1)


def read(path: str) -> list[Row]:
  """The rows that `--json` wrote."""
  with open(path) as file:
    rows = [Row(**one) for one in json.load(file)["rows"]]
  for made in rows:
    made.memory = {name: Memory(**x) for name, x in made.memory.items()}
  return rows


def _chosen(options: argparse.Namespace):
  """Cases with a dtype, a direction and a method."""
  for op in options.ops:
    case = CASES[op]
    methods = options.methods or [m for m in case.methods if m != "auto"]
    for dtype in options.dtypes:
      for direction in options.directions:
        for method in methods:
          if method in case.methods:
            yield case, direction, jnp.dtype(dtype).name, method


if __name__ == "__main__":
  # Programs are compiled, not run, so no accelerator is needed.
  jax.config.update("jax_platforms", "cpu")
  sys.exit(main())
