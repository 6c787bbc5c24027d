"""Times whole models: `python -m benchmarks.models`.

Compares language models of every mixer with the same model of softmax
attention: training, decoding, and compile time. `benchmarks/README.md` explains
the output.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

import jax

from benchmarks import model_plots, model_runs
from benchmarks.contest import Limits
from benchmarks.lm import SOFTMAX, Shape
from jaxmodels.mixers import MIXERS

_LENGTHS = (512, 2048, 8192, 32768)
_PARTS = ("training", "decoding", "compile")
COMPILE_SECONDS = 15.0
_QUICK = {
  "parts": ["training", "decoding"],
  "mixers": ["gated_deltanet", SOFTMAX],
  "lengths": [256, 1024],
  "tokens": 2048,
  "width": 64,
  "depth": 2,
  "repeats": 3,
}


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.models", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
  flags.add_argument(
    "--mixers", nargs="+", choices=MIXERS, default=list(MIXERS)
  )
  flags.add_argument("--lengths", nargs="+", type=int, default=_LENGTHS)
  flags.add_argument(
    "--tokens", type=int, help="tokens per step; by default the longest length"
  )
  flags.add_argument("--width", type=int, default=128)
  flags.add_argument("--heads", type=int, default=2)
  flags.add_argument("--depth", type=int, default=4)
  flags.add_argument("--repeats", type=int, default=5, help="rounds")
  flags.add_argument(
    "--decoded", type=int, default=32, help="tokens to decode per round"
  )
  flags.add_argument(
    "--deep", type=int, default=24, help="layers of the model to compile"
  )
  flags.add_argument(
    "--deep-mixers", nargs="+", choices=MIXERS, default=["gated_deltanet"]
  )
  flags.add_argument(
    "--memory", type=float, default=8, help="memory limit per step, in GiB"
  )
  flags.add_argument(
    "--seconds", type=float, default=60, help="time limit per step"
  )
  flags.add_argument("--json", help="file for all numbers")
  flags.add_argument("--plot", help="picture of speed against length")
  flags.add_argument(
    "--quick", action="store_true", help="two small models, a short run"
  )
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns 1 if the target is missed."""
  options = parser().parse_args(arguments)
  if options.quick:
    vars(options).update(_QUICK)
  options.lengths = sorted(options.lengths)
  options.tokens = options.tokens or options.lengths[-1]
  shape = Shape(options.width, options.heads, options.depth)
  print(
    f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {shape.depth} "
    f"layers of width {shape.width}, {shape.heads} heads"
  )
  trained = _training(options, shape) if "training" in options.parts else []
  decoded = _decoding(options, shape) if "decoding" in options.parts else []
  compiled = _compiling(options, shape) if "compile" in options.parts else []
  if options.json:
    groups = {"training": trained, "decoding": decoded, "compile": compiled}
    content = {"jax": jax.__version__, "shape": dataclasses.asdict(shape)} | {
      name: [dataclasses.asdict(run) for run in runs]
      for name, runs in groups.items()
    }
    with open(options.json, "w") as file:
      json.dump(content, file, indent=1)
  if options.plot:
    model_plots.models(trained, decoded, options.plot)
  return int(any(_missed(run) for run in compiled))


def _training(options: argparse.Namespace, shape: Shape):
  """Trains at every length; prints where mixers pass softmax attention."""
  limits = Limits(options.memory * 2**30, options.seconds)
  runs = []
  for length in options.lengths:
    if options.tokens % length:
      raise SystemExit(
        f"--tokens must be a multiple of every length, got {options.tokens} "
        f"and {length}"
      )
    now = model_runs.train(
      options.mixers,
      length,
      options.tokens,
      shape,
      limits,
      options.repeats,
      runs,
    )
    runs += now
    print(f"\ntraining, length {length}, batch {now[0].batch}")
    print(
      f"  {'':18} {'tokens/s':>9} {'x softmax':>9} {'MiB':>8} {'compile':>9}"
    )
    for run in now:
      print(f"  {run.mixer:18} {_trained(run)}", flush=True)
  print()
  for mixer in options.mixers:
    length = model_runs.crossing(runs, mixer)
    if mixer != SOFTMAX and length is not None:
      print(f"{mixer} trains faster than softmax from length {length:.0f}")
    elif mixer != SOFTMAX:
      print(f"{mixer} does not train faster than softmax at these lengths")
  return runs


def _trained(run: model_runs.TrainingRun) -> str:
  if run.skipped:
    return f"skipped: {run.skipped}"
  speedup = "-" if run.speedup is None else f"{run.speedup:.2f}"
  return (
    f"{run.tokens_per_second:9,.0f} {speedup:>9} {run.bytes / 2**20:8.0f} "
    f"{run.compile:7.1f} s"
  )


def _decoding(options: argparse.Namespace, shape: Shape):
  """Tokens per second and bytes of state, one line per mixer."""
  runs = model_runs.decode(
    options.mixers, options.lengths, shape, options.decoded, options.repeats
  )
  print(f"\ndecoding after {', '.join(map(str, options.lengths))} tokens")
  for mixer in options.mixers:
    own = [run for run in runs if run.mixer == mixer]
    speeds = " ".join(f"{run.tokens_per_second:7,.0f}" for run in own)
    sizes = " ".join(f"{run.state_bytes / 2**20:8.2f}" for run in own)
    print(f"  {mixer:18} tokens/s {speeds}   MiB {sizes}", flush=True)
  return runs


def _compiling(options: argparse.Namespace, shape: Shape):
  """Seconds to compile a deep model."""
  print(f"\ncompiling a training step of {options.deep} layers")
  runs = []
  for mixer in options.deep_mixers:
    runs += model_runs.compile_time(
      mixer, options.deep, shape, options.lengths[0]
    )
    for run in runs[-2:]:
      how = "scanned" if run.scan_layers else "unrolled"
      print(
        f"  {mixer:18} {how:8} {run.seconds:7.1f} s, "
        f"{run.processor_seconds:.1f} s of processors",
        flush=True,
      )
    word = "FAIL" if _missed(runs[-2]) else "pass"
    print(f"  {word}: scanned below {COMPILE_SECONDS:g} s")
  return runs


def _missed(run: model_runs.CompileRun) -> bool:
  return run.scan_layers and run.seconds >= COMPILE_SECONDS


if __name__ == "__main__":
  sys.exit(main())
