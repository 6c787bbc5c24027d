"""Measures training, decoding and compile time of models."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import lm, measure, programs
from benchmarks.contest import Limits
from benchmarks.lm import SOFTMAX, Shape


@dataclasses.dataclass
class TrainingRun:
  """A training step of one model at one length.

  Attributes:
    mixer: its name.
    length: tokens per sequence.
    batch: sequences per step.
    seconds: median per step.
    tokens_per_second: from `seconds`.
    speedup: softmax attention's time divided by this: median over rounds.
    bytes: temporary memory and arguments of the compiled program.
    compile: seconds for compiling.
    skipped: the reason, if it was left out.
  """

  mixer: str
  length: int
  batch: int
  seconds: float | None = None
  tokens_per_second: float | None = None
  speedup: float | None = None
  bytes: int | None = None
  compile: float | None = None
  skipped: str | None = None


@dataclasses.dataclass
class DecodingRun:
  """Decoding token by token after a context.

  Attributes:
    mixer: its name.
    context: number of tokens before.
    tokens_per_second: for one sequence.
    state_bytes: bytes of the state that passes from token to token.
  """

  mixer: str
  context: int
  tokens_per_second: float
  state_bytes: int


@dataclasses.dataclass
class CompileRun:
  """Seconds that a training step takes to trace and compile.

  Attributes:
    mixer: its name.
    depth: number of layers.
    scan_layers: whether the model scans over its layers.
    seconds: wall time.
    processor_seconds: CPU time of all cores; other work on the machine affects
      it less.
  """

  mixer: str
  depth: int
  scan_layers: bool
  seconds: float
  processor_seconds: float


def train(
  mixers: Sequence[str],
  length: int,
  tokens: int,
  shape: Shape,
  limits: Limits,
  repeats: int,
  before: Sequence[TrainingRun] = (),
) -> list[TrainingRun]:
  """Times a training step of every model.

  Args:
    mixers: names; one model per mixer.
    length: tokens per sequence.
    tokens: per step, a multiple of the length.
    shape: of the models.
    limits: for one step.
    repeats: rounds.
    before: results at shorter lengths.
  """
  runs: list[TrainingRun] = []
  built: dict[str, measure.Call] = {}
  for mixer in mixers:
    run = TrainingRun(mixer, length, tokens // length)
    runs.append(run)
    run.skipped = _forecast(mixer, before, limits)
    if not run.skipped:
      _build(run, built, shape, limits)
  times, slow = measure.interleave(built, repeats, np.inf, limits.seconds)
  for run in runs:
    if run.mixer in slow:
      run.seconds = slow[run.mixer]
      run.skipped = f"a step took {run.seconds:.0f} s"
    elif run.mixer in times:
      own = times[run.mixer]
      run.seconds = float(np.median(own))
      run.tokens_per_second = tokens / run.seconds
      if SOFTMAX in times:
        run.speedup = measure.ratio(times[SOFTMAX], own)
  return runs


def _forecast(mixer, before, limits) -> str | None:
  """The reason to skip it, if time grows as fast as it last did."""
  own = [run for run in before if run.mixer == mixer]
  if own and own[-1].seconds is None:
    return own[-1].skipped
  if len(own) < 2:
    return None
  seconds = own[-1].seconds ** 2 / own[-2].seconds
  if seconds > limits.seconds:
    return f"a step would take {seconds:.0f} s or more"
  return None


def _build(run, built, shape, limits) -> None:
  """Compiles a step into `built`, or writes the reason for skipping it."""
  model = lm.model(run.mixer, shape, run.length)
  training = lm.training(model, run.batch, run.length)
  traced = programs.lower(training.step, training.state, training.batch)
  program = programs.build(traced)
  memory = program.call.memory_analysis()
  run.bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  run.compile = program.compile_seconds
  if run.bytes > limits.bytes:
    run.skipped = f"needs {run.bytes / 2**30:.1f} GiB"
    return
  arguments = training.initial(), lm.draw_batch(training.batch)
  built[run.mixer] = program._replace(arguments=arguments).run


def crossing(runs: Sequence[TrainingRun], mixer: str) -> float | None:
  """The length from which a mixer is faster than softmax attention.

  Interpolates the speedup linearly on logarithmic axes and returns the length
  where it is 1: the shortest length if the mixer is faster there already, None
  if it never is.
  """
  own = [r for r in runs if r.mixer == mixer and r.speedup]
  own.sort(key=lambda run: run.length)
  slower = None
  for run in own:
    if run.speedup >= 1 and slower is None:
      return float(run.length)
    if run.speedup >= 1:
      rise = np.log([slower.speedup, run.speedup])
      ends = np.log([slower.length, run.length])
      return float(np.exp(np.interp(0.0, rise, ends)))
    slower = run
  return None


def decode(
  mixers: Sequence[str],
  contexts: Sequence[int],
  shape: Shape,
  tokens: int,
  repeats: int,
) -> list[DecodingRun]:
  """Times decoding after contexts of several lengths.

  A state of fixed size comes from a prompt of that length. A cache has the size
  of its context from the start; its content does not affect the time.
  """
  decoders, sizes = {}, {}
  for mixer in mixers:
    longest = lm.model(mixer, shape, max(contexts))
    params = jax.jit(longest.init)(
      jax.random.key(0), np.zeros((1, 1), np.int32)
    )["params"]
    for context in contexts:
      model = lm.model(mixer, shape, context)
      decoder = lm.Decoder(model, params, tokens)
      if mixer != SOFTMAX:
        decoder.prefill(context)
      decoders[mixer, context] = decoder
      sizes[mixer, context] = lm.state_bytes(model)
  times, _ = measure.interleave(decoders, repeats, np.inf)
  return [
    DecodingRun(
      mixer, context, tokens / float(np.median(own)), sizes[mixer, context]
    )
    for (mixer, context), own in times.items()
  ]


def compile_time(
  mixer: str, depth: int, shape: Shape, length: int
) -> list[CompileRun]:
  """Compiles a deep model with a scan over layers, and unrolled."""
  runs = []
  for scan_layers in (True, False):
    deep = dataclasses.replace(shape, depth=depth, scan_layers=scan_layers)
    training = lm.training(lm.model(mixer, deep, length), 1, length)
    traced = programs.lower(training.step, training.state, training.batch)
    program = programs.build(traced)
    seconds = program.compile_seconds, program.processor_seconds
    runs.append(CompileRun(mixer, depth, scan_layers, *seconds))
  return runs
