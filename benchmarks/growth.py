"""How work, memory and time of every mixer grow: `python -m benchmarks.growth`.

Prints, per mixer, the flops, the temporary memory and the processor time of a
gradient, per token and at several lengths, and the compile time of a training
step. `benchmarks/README.md` explains the columns.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import lm, programs
from benchmarks.measure import least_processor_seconds
from jaxmodels.analysis import flops
from jaxmodels.mixers import MIXERS

# Their scores are an [L, L] matrix, or one of every place with every place.
QUADRATIC = (
  "latent_attention",
  "mixture_of_heads",
  "polyline_attention",
  "softmax_attention",
)
# Each round of their loop adds a few keys' gradient to that of all keys. The
# compiled program does so in place; the count of flops has one addition for
# every key, so that it grows with the square of the length.
IN_PLACE = ("neighborhood_attention", "halo_attention")
COMPILE_SECONDS = 10.0
_LENGTHS = (1024, 4096, 8192, 32768)
_PARTS = ("work", "time", "compile")


@dataclasses.dataclass
class Point:
  """A gradient of one mixer at one length, per token.

  Attributes:
    mixer: its name.
    length: L, in tokens.
    flops: counted by `jaxmodels.analysis.flops`, loops included.
    bytes: temporary memory of the compiled program.
    processor: processor time, in seconds, the least of the rounds; None if it
      was not measured.
  """

  mixer: str
  length: int
  flops: float
  bytes: float
  processor: float | None = None


@dataclasses.dataclass
class Compilation:
  """Compilation of a training step of a language model of one layer.

  Attributes:
    mixer: its name.
    width: D.
    seconds: wall time of tracing, lowering and compiling.
    processor_seconds: processor time of all cores.
  """

  mixer: str
  width: int
  seconds: float
  processor_seconds: float


def gradient(
  mixer: str,
  length: int,
  width: int,
  batch: int = 1,
  dtype: Any = jnp.float32,
  **options: Any,
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """The gradient of a mixer by its parameters and x, and its arguments' shapes.

  Args:
    mixer: a name in `jaxmodels.mixers.MIXERS`.
    length: L.
    width: D.
    batch: B.
    dtype: of x and of the computation; parameters are float32.
    **options: other fields of the mixer.
  """
  make = MIXERS[mixer]
  cache = _cache(make, mixer, length)
  layer: Any = make(width=width, dtype=dtype, **(cache | options))
  x = jax.ShapeDtypeStruct((batch, length, width), dtype)
  variables = jax.eval_shape(layer.init, jax.random.key(0), x)
  fixed, params = dict(variables), variables["params"]
  del fixed["params"]

  def loss(params: Any, x: jax.Array, fixed: Any) -> jax.Array:
    y, _ = layer.apply({"params": params, **fixed}, x)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)))

  return jax.grad(loss, (0, 1)), (params, x, fixed)


def _cache(make: Any, mixer: str, length: int) -> dict[str, int]:
  """A cache for all tokens, if the mixer attends to all of them."""
  has_cache = hasattr(make, "max_length") and mixer in QUADRATIC
  return {"max_length": length} if has_cache else {}


def counted(mixer: str, length: int, width: int) -> float:
  """Flops of the gradient per token; traces and does not compile."""
  function, arguments = gradient(mixer, length, width)
  return flops.count(function, *arguments).total / length


def temporary(mixer: str, length: int, width: int) -> float:
  """Temporary memory of the compiled gradient, in bytes per token."""
  function, arguments = gradient(mixer, length, width)
  return (
    programs.build(programs.lower(function, *arguments)).temp_bytes / length
  )


def measure(
  mixer: str, lengths: Sequence[int], width: int, rounds: int
) -> list[Point]:
  """Measures one mixer at every length.

  Args:
    mixer: a name in `jaxmodels.mixers.MIXERS`.
    lengths: in tokens.
    width: D.
    rounds: calls per length, one per round; 0 measures no time.
  """
  points, calls = [], []
  for length in lengths:
    function, shapes = gradient(mixer, length, width)
    program = programs.build(programs.lower(function, *shapes))
    count = flops.count(function, *shapes).total
    points.append(
      Point(mixer, length, count / length, program.temp_bytes / length)
    )
    if rounds:
      calls.append(program._replace(arguments=_drawn(shapes)).run)
  if rounds:
    taken = least_processor_seconds(calls, rounds)
    for point, processor in zip(points, taken, strict=True):
      point.processor = float(processor) / point.length
  return points


def _drawn(shapes: Any) -> Any:
  """Arguments of these shapes: small normal numbers."""
  rng = np.random.default_rng(0)

  def draw(x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.zeros(x.shape, x.dtype)
    return jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype)

  return jax.tree.map(draw, shapes)


def compilation(mixer: str, width: int, length: int) -> Compilation:
  """Compiles the trainer's step with AdamW for a model of one layer."""
  model = lm.model(mixer, lm.Shape(width, heads=4, depth=1), length)
  training = lm.training(model, 1, length)
  program = programs.build(
    programs.lower(training.step, training.state, training.batch)
  )
  return Compilation(
    mixer, width, program.compile_seconds, program.processor_seconds
  )


def line(points: Sequence[Point]) -> str:
  """One mixer: figures at the shortest length, and ratios at the others."""
  first, *others = points
  cells = [f"{first.mixer:23}"]
  for name, unit in (("flops", 1.0), ("bytes", 1.0), ("processor", 1e9)):
    start = getattr(first, name)
    if start is None:
      continue
    ratios = (getattr(point, name) / start for point in others)
    cells.append(
      f"{unit * start:10,.0f} " + " ".join(f"{r:5.2f}" for r in ratios)
    )
  return " |".join(cells)


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.growth", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
  flags.add_argument(
    "--mixers", nargs="+", choices=MIXERS, default=list(MIXERS)
  )
  flags.add_argument("--lengths", nargs="+", type=int, default=_LENGTHS)
  flags.add_argument("--width", type=int, default=64)
  flags.add_argument("--rounds", type=int, default=3, help="calls per length")
  flags.add_argument(
    "--limit", type=int, default=8192, help="longest of the quadratic mixers"
  )
  flags.add_argument(
    "--compile-width", type=int, default=256, help="width of the compiled step"
  )
  flags.add_argument("--json", help="file for all numbers")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns 1 if a step takes too long to compile."""
  options = parser().parse_args(arguments)
  points: list[Point] = []
  compiled: list[Compilation] = []
  lengths, rounds = sorted(options.lengths), options.rounds
  print(
    f"jax {jax.__version__}; gradient of a mixer of width {options.width}, per"
    f" token: flops, bytes and processor ns at {lengths[0]} tokens, and ratios"
    f" at {', '.join(map(str, lengths[1:]))}; then seconds to compile a"
    f" training step of width {options.compile_width}",
  )
  for mixer in options.mixers:
    cells = []
    if {"work", "time"} & set(options.parts):
      limit = options.limit if mixer in QUADRATIC else lengths[-1]
      fit = [length for length in lengths if length <= limit]
      points += measure(
        mixer, fit, options.width, rounds if "time" in options.parts else 0
      )
      cells.append(line(points[-len(fit) :]))
    if "compile" in options.parts:
      made = compilation(mixer, options.compile_width, lengths[0])
      compiled.append(made)
      slow = " FAIL" if _is_slow(made) else ""
      cells += [] if cells else [f"{mixer:23}"]
      cells.append(
        f"{made.seconds:5.1f} s, {made.processor_seconds:.1f} s of"
        f" processors{slow}"
      )
    print(" | ".join(cells), flush=True)
    if options.json:
      _write(options.json, points, compiled)
  return int(any(map(_is_slow, compiled)))


def _is_slow(made: Compilation) -> bool:
  """Whether it misses the target.

  On a busy machine the wall time is long, and the processor time is then an
  upper bound of the wall time without other work.
  """
  return min(made.seconds, made.processor_seconds) >= COMPILE_SECONDS


def _write(
  path: str, points: Sequence[Point], compiled: Sequence[Compilation]
) -> None:
  content = {
    "jax": jax.__version__,
    "growth": [dataclasses.asdict(point) for point in points],
    "compile": [dataclasses.asdict(made) for made in compiled],
  }
  with open(path, "w") as file:
    json.dump(content, file, indent=1)


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  sys.exit(main())
