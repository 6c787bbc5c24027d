"""Compiles gradients of ours and of others for a TPU v5e that is not there.

    python -m benchmarks.peers.chips --out benchmarks/peers/TPU.md

Bytes are facts of the compiled program. No chip has run these programs. libtpu
is needed, and the environment of `make peers`.
"""

import argparse
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tpu
from benchmarks.peers import draws, in_jax, jla
from jaxmodels import ops
from jaxmodels.ops.engine.platform import trace_for

SLICE = "v5e:2x2"
OURS, KERNEL, PLAIN = "jaxmodels", "deltanet-tpu, kernel", "deltanet-tpu, plain"
JLA = "jax-linear-attention"
MINUTES = (JLA, PLAIN)  # To compile: only for the first of the batches.
_WIDE = {"heads": 8, "width": 128}
_NARROW = "q", "k", "v"  # In bfloat16; gates are in float32.


def _cases():
  """By name: how to draw the inputs, and the programs by name."""
  kinds = {
    "gated delta rule": (draws.delta, "gdn", jla.op("gated_deltanet")),
    "KDA": (draws.delta_per_key, "kda", jla.op("kda")),
    "gated delta rule 2": (
      draws.delta_two_gates,
      "gdn2",
      jla.op("gdn2", beta="b"),
    ),
  }
  return {
    name: (
      draw,
      {
        OURS: lambda: ops.delta_rule,
        KERNEL: in_jax.deltanet_tpu(kind, fallback_scan=False),
        PLAIN: in_jax.deltanet_tpu(kind),
        JLA: plain,
      },
    )
    for name, (draw, kind, plain) in kinds.items()
  }


def shapes(draw: Callable, batch: int, length: int) -> dict[str, Any]:
  """The inputs without their values; their sizes grow with the length."""
  drawn = draw(np.random.default_rng(0), batch, 2, **_WIDE)
  return {
    name: jax.ShapeDtypeStruct(
      (batch, length, *x.shape[2:]),
      jnp.bfloat16 if name in _NARROW else jnp.float32,
    )
    for name, x in drawn.items()
  }


def compiled(function: Callable, inputs: dict[str, Any]) -> Any:
  """The gradient by all inputs of `function`, for one chip."""

  def gradient(inputs, changes):
    return jax.vjp(lambda x: function(**x), inputs)[1](changes)[0]

  where = tpu.chip(SLICE)
  # Kernels of others ask for the default device and for the chip's kind.
  kind = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
  mesh = jax.sharding.AbstractMesh((1,), ("chips",), abstract_device=kind)
  with (
    trace_for("tpu"),
    mock.patch("jax.default_backend", lambda: "tpu"),
    jax.sharding.use_abstract_mesh(mesh),
  ):
    outputs = jax.eval_shape(lambda inputs: function(**inputs), inputs)
    placed = tpu.place((inputs, outputs), where)
    return jax.jit(gradient).lower(*placed).compile()


def line(
  name: str, batch: int, length: int, who: str, load: Callable | None = None
) -> str:
  """The row of one program, with the reason if it does not compile."""
  draw, programs = _cases()[name]
  start = time.perf_counter()
  cells = [name, str(batch), who]
  try:
    function = (load or programs[who])()
    program = compiled(function, shapes(draw, batch, length))
  except Exception as error:  # A peer may fail in any way.
    first = str(error).strip().split("\n")[0]
    told = f"{type(error).__name__}: {first}"[:90]
    return f"| {' | '.join([*cells, told])} |"
  memory = program.memory_analysis()
  sizes = memory.temp_size_in_bytes, memory.output_size_in_bytes
  cells += [f"{size / 2**20:,.0f}" for size in sizes]
  cells.append(f"{time.perf_counter() - start:.0f}")
  return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  argv = sys.argv[1:] if argv is None else argv
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.peers.chips", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--case", nargs="+", choices=_cases(), default=_cases())
  flags.add_argument("--programs", nargs="+", default=[OURS, KERNEL, JLA])
  flags.add_argument("--batch", nargs="+", type=int, default=[2, 8])
  flags.add_argument("--length", type=int, default=4096)
  flags.add_argument("--out", type=pathlib.Path, help="the page to write")
  options = flags.parse_args(argv)
  lines = [
    "# Kernels of others on a TPU",
    "",
    f"Written by `python -m benchmarks.peers.chips {shlex.join(argv)}`.",
    "",
    f"jax {jax.__version__}, one {SLICE.partition(':')[0]} chip that is not "
    f"there; gradients by all inputs of {options.length} tokens per row, 8 "
    "heads of 128x128, q, k and v in bfloat16 and gates in float32. MiB are "
    "temporary memory, and results. No chip has run these programs.",
    "",
    "| | rows | program | MiB | results MiB | compile s |",
    "|---|---:|---|---:|---:|---:|",
  ]
  for name in options.case:
    for batch in options.batch:
      for who in options.programs:
        if who in MINUTES and batch != options.batch[0]:
          continue
        lines.append(line(name, batch, options.length, who))
        print(lines[-1], flush=True)
  if options.out:
    options.out.write_text("\n".join(lines) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
