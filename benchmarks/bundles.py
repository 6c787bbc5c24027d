"""Compares the kernels of matrix states with the other forms, for TPUs.

    python -m benchmarks.bundles --out benchmarks/TPU.md

compiles the gradient of each op by each form for chips that are not there, and
writes temporary memory and expected cycles: those that the compiler estimates,
and for kernels the bundles that it scheduled.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import programs, tpu
from benchmarks.cases import CASES, Sizes

OPS = {
  "linear_attention_no_decay": ("chunk_parallel",),
  "linear_attention": ("chunked", "chunk_parallel"),
  "linear_attention_key_decay": ("chunked",),
  "normalized_linear_attention": ("chunked", "chunk_parallel"),
  "delta_rule_no_decay": ("chunked",),
  "delta_rule": ("chunked",),
  "delta_rule_key_decay": ("chunked",),
  "dplr_recurrence": ("chunked",),
}
_CHUNK = 128


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.bundles", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
  flags.add_argument(
    "--slices", nargs="+", default=["v5e:2x2", "v5p:2x2x1", "v6e:2x2"]
  )
  flags.add_argument("--batches", nargs="+", type=int, default=[2, 8])
  flags.add_argument("--length", type=int, default=4096)
  flags.add_argument("--heads", type=int, default=8)
  flags.add_argument("--width", type=int, default=128)
  flags.add_argument("--dtype", default="bfloat16")
  flags.add_argument("--out", help="file to write; printed without it")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command."""
  options = parser().parse_args(arguments)
  found: dict[tuple[Any, ...], str] = {}
  with tpu.Compiler() as compiler:
    for key in itertools.product(options.slices, options.ops, options.batches):
      for method in (*OPS[key[1]], "pallas"):
        found[*key, method] = _line(compiler, options, *key, method)
  words = shlex.join(sys.argv[1:] if arguments is None else arguments)
  lines = (found[key] for key in sorted(found, key=_order(options)))
  text = "\n".join([*_head(options, words), *lines]) + "\n"
  tpu.put(text, options.out)
  return 0


def _order(options):
  """By op, chip and rows, in the order of the flags, kernels last."""

  def key(one):
    name, op, batch, method = one
    places = options.ops.index(op), options.slices.index(name)
    return *places, options.batches.index(batch), method == "pallas", method

  return key


def _head(options: argparse.Namespace, words: str) -> list[str]:
  return [
    "# Kernels for TPUs",
    "",
    f"Written by `python -m benchmarks.bundles {words}`.",
    "",
    f"jax {jax.__version__}; gradients of {options.length} tokens per row, "
    f"{options.heads} heads of {options.width}x{options.width}, in "
    f"{options.dtype}, in chunks of {_CHUNK}. MiB is the temporary memory. "
    "Cycles are those that the compiler estimates; for kernels, which its "
    "estimate leaves out, the bundles of instructions that it scheduled, one "
    "per cycle. Waits for memory are not among them. No chip has run these "
    "programs.",
    "",
    "| op | chip | rows | method | MiB | million cycles |",
    "| --- | --- | ---: | --- | ---: | ---: |",
  ]


def _line(compiler, options, name, op, batch, method):
  """The row of a gradient."""
  sizes = Sizes(batch, options.length, options.heads, options.width)
  cost = compiler.cost(name, gradient, op, method, sizes, options.dtype)
  cells = "fails", cost.failed
  if not cost.failed:
    cycles = cost.cycles + cost.kernel_cycles
    cells = f"{cost.temp_bytes / 2**20:,.1f}", f"{cycles / 1e6:,.2f}"
  row = op, name.split(":")[0], str(batch), method, *cells
  line = f"| {' | '.join(row)} |"
  print(line, file=sys.stderr, flush=True)
  return line


def gradient(op: str, method: str, sizes: Sizes, dtype: str) -> Any:
  """The gradient of an op, and the shapes of its arguments."""
  case = CASES[op]

  def call(**inputs):
    options = {"chunk_size": _CHUNK} if method == "pallas" else {}
    return case.op(**inputs, method=method, **options)

  return programs.directions(call, case.shapes(sizes, dtype))["gradient"]


if __name__ == "__main__":
  sys.exit(main())
