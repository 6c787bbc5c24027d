"""Compares one case with its peers: results, errors, times and memory."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import both_seconds, copy, interleave, matmuls, ratio
from benchmarks.peers.cases import Case
from jaxmodels.analysis import flops
from jaxmodels.testing import relative_error, tolerance

OURS = "jaxmodels"
ALLOWED = tolerance(np.float32)


@dataclasses.dataclass
class Row:
  """One implementation in one case; a missing number is None.

  Attributes:
    case: its name.
    batch: B.
    length: L.
    name: of the implementation.
    left_out: the reason, if it was not timed.
    no_gradient: the reason, if its gradient was not timed.
    output_difference: from ours; the largest of outputs and final state.
    gradient_difference: from ours; the largest over all inputs.
    output_error: the same from the definition in float64.
    gradient_error: the same for the gradients.
    forward: seconds per call.
    gradient: seconds per call, forward and backward.
    forward_ratio: time divided by that of our op.
    gradient_ratio: the same for the gradient.
    forward_processor: processor time divided by that of our op.
    gradient_processor: the same for the gradient.
    compile: seconds for tracing and compiling the gradient.
    temporary_bytes: temporary memory of the compiled gradient.
    products: of our gradient: processor time divided by that of its counted
      flops at the best rate of matrix products in the same rounds.
    arrays: of our gradient: processor time divided by that of reading its
      inputs and writing its results once, as in a copy in the same rounds.
  """

  case: str
  batch: int
  length: int
  name: str
  left_out: str | None = None
  no_gradient: str | None = None
  output_difference: float | None = None
  gradient_difference: float | None = None
  output_error: float | None = None
  gradient_error: float | None = None
  forward: float | None = None
  gradient: float | None = None
  forward_ratio: float | None = None
  gradient_ratio: float | None = None
  forward_processor: float | None = None
  gradient_processor: float | None = None
  compile: float | None = None
  temporary_bytes: int | None = None
  products: float | None = None
  arrays: float | None = None


class JaxProgram:
  """A JAX function, compiled for its inputs."""

  def __init__(self, function: Callable, inputs: dict[str, np.ndarray]):
    self._function = function
    self._inputs = jax.tree.map(jnp.asarray, inputs)
    self._forward = self._compiled(lambda inputs: function(**inputs))[0]
    self.compile: float | None = None
    self.temporary_bytes: int | None = None

  def forward(self) -> Any:
    """The outputs, once they are ready."""
    return jax.block_until_ready(self._forward(self._inputs))

  def prepare(self, cotangents: Any) -> None:
    """Compiles the gradient."""
    flat = [jnp.asarray(x) for x in cotangents]

    def gradient(inputs):
      outputs, back = jax.vjp(lambda inputs: self._function(**inputs), inputs)
      return back(jax.tree.unflatten(jax.tree.structure(outputs), flat))[0]

    self._differentiated = gradient
    self._gradient, self.compile = self._compiled(gradient)
    memory = self._gradient.memory_analysis()
    self.temporary_bytes = memory.temp_size_in_bytes

  def gradient(self) -> dict[str, Any]:
    """The gradients of all inputs, once they are ready."""
    return jax.block_until_ready(self._gradient(self._inputs))

  def gradient_flops(self) -> float:
    """The counted flops of the gradient."""
    return flops.count(self._differentiated, self._inputs).total

  def _compiled(self, function):
    start = time.perf_counter()
    program = jax.jit(function).lower(self._inputs).compile()
    return program, time.perf_counter() - start


class TorchProgram:
  """A PyTorch function, uncompiled."""

  compile = temporary_bytes = None

  def __init__(self, function: Callable, inputs: dict[str, np.ndarray]):
    import torch  # PyTorch is optional.

    self._torch, self._function = torch, function
    self._inputs = {name: torch.tensor(x) for name, x in inputs.items()}

  def forward(self) -> Any:
    """The outputs."""
    with self._torch.no_grad():
      return self._function(**self._inputs)

  def prepare(self, cotangents: Any) -> None:
    """Takes the cotangents; marks the inputs to differentiate."""
    self._cotangents = [self._torch.tensor(x) for x in cotangents]
    for tensor in self._inputs.values():
      tensor.requires_grad_()

  def gradient(self) -> dict[str, Any]:
    """The gradients of all inputs."""
    outputs = jax.tree.leaves(self._function(**self._inputs))
    gradients = self._torch.autograd.grad(
      outputs, list(self._inputs.values()), self._cotangents
    )
    return dict(zip(self._inputs, gradients, strict=True))


@dataclasses.dataclass
class Results:
  """What an implementation computed.

  Attributes:
    outputs: all arrays, in order.
    gradients: by the name of the input.
  """

  outputs: list[np.ndarray]
  gradients: dict[str, np.ndarray]

  def output_error(self, outputs: list[Any]) -> float:
    """Of other outputs; infinite if their number differs."""
    return _worst(outputs, self.outputs)

  def gradient_error(self, gradients: dict[str, Any]) -> float:
    """Of other gradients."""
    keys = list(self.gradients)
    others = [gradients[key] for key in keys]
    return _worst(others, [self.gradients[key] for key in keys])


def draw(case: Case, batch: int, length: int) -> dict[str, np.ndarray]:
  """The float32 inputs of a case, from a fixed seed."""
  inputs = case.inputs(np.random.default_rng(0), batch, length)
  return {key: np.asarray(x, np.float32) for key, x in inputs.items()}


def measure(
  name: str,
  case: Case,
  batch: int,
  length: int,
  rounds: int,
  limit: float,
  allowed: float = ALLOWED,
) -> list[Row]:
  """Measures one case at one length: our op first, then its peers.

  Args:
    name: of the case.
    case: its op, inputs and peers.
    batch: B.
    length: L.
    rounds: number of rounds; with 0, nothing is timed.
    limit: seconds per call; a slower program is left out.
    allowed: the difference from ours above which a peer is left out.
  """
  inputs = draw(case, batch, length)
  row = Row(name, batch, length, OURS)
  program = JaxProgram(case.op, inputs)
  outputs = jax.tree.leaves(program.forward())
  rng = np.random.default_rng(1)
  cotangents = [
    rng.standard_normal(x.shape).astype(np.float32) for x in outputs
  ]
  program.prepare(cotangents)
  ours = Results(outputs, program.gradient())
  exact = definition(case, inputs, cotangents)
  row.output_error = exact.output_error(ours.outputs)
  row.gradient_error = exact.gradient_error(ours.gradients)
  contest, rows, bounds = [(row, program)], [row], (allowed, limit)
  kinds = (JaxProgram, case.jax_peers), (TorchProgram, case.torch_peers)
  for kind, peers in kinds:
    for peer, load in peers.items():
      row = Row(name, batch, length, peer)
      rows.append(row)
      other = _enter(row, kind, load, inputs, ours, exact, bounds)
      if other is not None:
        _enter_gradient(row, other, cotangents, ours, exact, bounds)
        contest.append((row, other))
  if rounds:
    arrays = [*inputs.values(), *inputs.values(), *cotangents]
    _time(contest, rounds, sum(x.nbytes for x in arrays))
  return rows


def definition(
  case: Case, inputs: dict[str, np.ndarray], cotangents: list[np.ndarray]
) -> Results:
  """The outputs and gradients of a case by its definition, in float64."""
  with jax.enable_x64(True):
    wide = {key: x.astype(np.float64) for key, x in inputs.items()}
    program = JaxProgram(case.defined, wide)
    outputs = jax.tree.leaves(program.forward())
    program.prepare([x.astype(np.float64) for x in cotangents])
    return Results(outputs, program.gradient())


def _enter(row, kind, load, inputs, ours, exact, bounds):
  """The peer's program, or None with the reason in its row."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of its import, and of its chip.
      function = load()
      program = kind(function, inputs)
    outputs, taken = _first(program.forward)
  except ModuleNotFoundError as missing:
    row.left_out = f"not installed: {missing}"
    return None
  except Exception as error:  # The other peers still run.
    row.left_out = _told(error)
    return None
  outputs = jax.tree.leaves(outputs)
  row.output_difference = ours.output_error(outputs)
  row.output_error = exact.output_error(outputs)
  allowed, limit = bounds
  if not row.output_difference < allowed:
    row.left_out = f"MISMATCH: outputs differ by {row.output_difference:.1e}"
  elif taken > limit:
    row.left_out = f"one call took {taken:.0f} s"
  return program if row.left_out is None else None


def _enter_gradient(row, program, cotangents, ours, exact, bounds):
  """Compares the peer's gradients; writes any problem into its row."""
  try:
    program.prepare(cotangents)
    gradients, taken = _first(program.gradient)
  except Exception as error:  # A peer may fail in any way.
    row.no_gradient = _told(error)
    return
  off = row.gradient_difference = ours.gradient_error(gradients)
  row.gradient_error = exact.gradient_error(gradients)
  allowed, limit = bounds
  if not off < allowed:
    row.no_gradient = f"MISMATCH: gradients differ by {off:.1e}"
  elif taken > limit:
    row.no_gradient = f"one call took {taken:.0f} s"


def _first(call):
  """The result of a call, and its seconds."""
  start = time.perf_counter()
  result = call()
  return result, time.perf_counter() - start


def _worst(results, expected):
  """The largest relative error; infinite if the counts differ."""
  if len(results) != len(expected):
    return float("inf")
  pairs = zip(results, expected, strict=True)
  errors = [relative_error(result, other) for result, other in pairs]
  return float(np.max(errors))  # A NaN stays NaN, and so does not match.


def _told(error):
  """The error in one short line."""
  first = str(error).strip().split("\n")[0]
  return f"{type(error).__name__}: {first}"[:120]


def _time(contest, rounds, array_bytes):
  """Times all programs in rounds and fills their rows."""
  calls = {row.name: program.forward for row, program in contest}
  _fill("forward", contest, _rounds(calls, rounds))
  contest = [one for one in contest if one[0].no_gradient is None]
  calls = {row.name: program.gradient for row, program in contest}
  rulers, read = _rulers()
  runs = {name: program.run for name, program in rulers.items()}
  times = _rounds(calls | runs, rounds)
  _fill("gradient", contest, times)
  for row, program in contest:
    row.compile = program.compile
    row.temporary_bytes = program.temporary_bytes
  ours, program = contest[0]
  own = times[OURS][:, 1]
  over = {name: ratio(own, times[name][:, 1]) for name in rulers}
  work = program.gradient_flops()
  ours.products = max(over[n] * rulers[n].flops / work for n in rulers)
  ours.arrays = over[_COPY] * read / array_bytes


_COPY = "copy"


@functools.cache
def _rulers():
  """Programs that measure the machine, and the bytes that the copy moves."""
  program, moved = copy()
  return matmuls() | {_COPY: program}, moved


def _rounds(calls, rounds):
  """Wall and processor seconds of calls in rounds, each [rounds, 2]."""
  return interleave(calls, rounds, math.inf, timer=both_seconds)[0]


def _fill(direction, contest, times):
  """Writes times and ratios of a direction into the rows."""
  for row, _ in contest:
    own, ours = times[row.name], times[OURS]
    setattr(row, direction, float(np.median(own[:, 0])))
    setattr(row, f"{direction}_ratio", ratio(own[:, 0], ours[:, 0]))
    setattr(row, f"{direction}_processor", ratio(own[:, 1], ours[:, 1]))
