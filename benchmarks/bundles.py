"""Compares the kernels of matrix states with the other forms, for TPUs.

    python -m benchmarks.bundles --out benchmarks/TPU.md

compiles the gradient of each op by each form for chips that are not there, and
writes temporary memory and expected cycles: those that the compiler estimates,
and for kernels the bundles that it scheduled. The chips come one after another,
each in a process of its own.
"""

import argparse
import itertools
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import jax

from benchmarks import programs, tpu
from benchmarks.cases import CASES, Sizes
from jaxmodels.analysis import bundles
from jaxmodels.analysis.cycles import expected_cycles
from jaxmodels.ops.engine.platform import trace_for

OPS = {
  "linear_attention_no_decay": ("chunk_parallel",),
  "linear_attention": ("chunked", "chunk_parallel"),
  "linear_attention_key_decay": ("chunked",),
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
  for name in options.slices:
    for kernels in (False, True):
      # libtpu reads its flags once per process. With them, all other programs
      # would compile for minutes.
      context = multiprocessing.get_context("spawn")
      with futures.ProcessPoolExecutor(1, context) as pool:
        found |= pool.submit(_of_slice, name, options, kernels).result()
  words = shlex.join(sys.argv[1:] if arguments is None else arguments)
  lines = (found[key] for key in sorted(found, key=_order(options)))
  text = "\n".join([*_head(options, words), *lines]) + "\n"
  if options.out:
    with open(options.out, "w") as file:
      file.write(text)
  else:
    print(text)
  return 0


def _order(options):
  """By op, chip and rows, in the order of the flags, kernels last."""

  def key(one):
    op, name, batch, method = one
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


def _of_slice(name, options, kernels):
  """The lines of one chip, by op, chip, rows and method."""
  folder = tempfile.mkdtemp()
  if kernels:
    os.environ["LIBTPU_INIT_ARGS"] = bundles.flags(folder)
  lines = {}
  for op, batch in itertools.product(options.ops, options.batches):
    sizes = Sizes(batch, options.length, options.heads, options.width)
    for method in ("pallas",) if kernels else OPS[op]:
      shutil.rmtree(folder, ignore_errors=True)
      mib, cycles = _cost(op, method, sizes, options.dtype, name, folder)
      line = (
        f"| {op} | {name.split(':')[0]} | {batch} | {method} | {mib:,.1f} | "
        f"{cycles / 1e6:,.2f} |"
      )
      print(line, file=sys.stderr, flush=True)
      lines[op, name, batch, method] = line
  shutil.rmtree(folder, ignore_errors=True)
  return lines


def _cost(op, method, sizes, dtype, name, folder):
  """Temporary memory in MiB, and cycles, of a gradient."""
  case = CASES[op]

  def call(**inputs):
    options = {"chunk_size": _CHUNK} if method == "pallas" else {}
    return case.op(**inputs, method=method, **options)

  with trace_for("tpu"):
    function, arguments = programs.directions(call, case.shapes(sizes, dtype))[
      "gradient"
    ]
    lowered = programs.lower(function, *tpu.place(arguments, tpu.chip(name)))
    built = programs.build(lowered)
  rounds = sizes.batch * sizes.length // _CHUNK, sizes.heads
  cycles = expected_cycles(built.text)
  cycles += bundles.kernel_cycles(folder, "chunk_", rounds)
  return built.temp_bytes / 2**20, cycles


if __name__ == "__main__":
  sys.exit(main())
