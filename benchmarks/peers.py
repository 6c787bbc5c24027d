"""Times our ops against other implementations, with the same inputs.

    python -m benchmarks.peers
    python -m benchmarks.peers --length 2048 --case "gated delta rule"

Outputs and gradients are first compared with ours. A peer that differs by more
than the tests allow is reported and not timed. A peer that is not installed is
skipped (CONTRIBUTING explains how to install them). All programs run once per
round in one process, in a new random order per round, so that other work
affects all of them alike. Compare the ratios, which are medians over rounds.
PyTorch peers run uncompiled.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers_cases, peers_mixers
from benchmarks.measure import interleave, ratio
from benchmarks.peers_cases import Case
from jaxmodels.testing import relative_error, tolerance

CASES = peers_cases.CASES | peers_mixers.CASES
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
    output_error: largest relative error of outputs and final state.
    gradient_error: largest relative error over all inputs.
    forward: seconds per call.
    gradient: seconds per call, forward and backward.
    forward_ratio: time divided by that of our op.
    gradient_ratio: the same for the gradient.
    compile: seconds for tracing and compiling the gradient.
    temporary_bytes: temporary memory of the compiled gradient.
  """

  case: str
  batch: int
  length: int
  name: str
  left_out: str | None = None
  no_gradient: str | None = None
  output_error: float | None = None
  gradient_error: float | None = None
  forward: float | None = None
  gradient: float | None = None
  forward_ratio: float | None = None
  gradient_ratio: float | None = None
  compile: float | None = None
  temporary_bytes: int | None = None


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

    self._gradient, self.compile = self._compiled(gradient)
    memory = self._gradient.memory_analysis()
    self.temporary_bytes = memory.temp_size_in_bytes

  def gradient(self) -> dict[str, Any]:
    """The gradients of all inputs, once they are ready."""
    return jax.block_until_ready(self._gradient(self._inputs))

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


def measure(
  name: str,
  case: Case,
  batch: int,
  length: int,
  rounds: int,
  limit: float,
) -> list[Row]:
  """Measures one case at one length: our op first, then its peers.

  Args:
    name: of the case.
    case: its op, inputs and peers.
    batch: B.
    length: L.
    rounds: number of rounds.
    limit: seconds per call; a slower program is left out.
  """
  inputs = case.inputs(np.random.default_rng(0), batch, length)
  inputs = {key: np.asarray(x, np.float32) for key, x in inputs.items()}
  ours = Row(name, batch, length, OURS)
  program = JaxProgram(case.op, inputs)
  expected = [np.asarray(x) for x in jax.tree.leaves(program.forward())]
  rng = np.random.default_rng(1)
  cotangents = [
    rng.standard_normal(x.shape).astype(np.float32) for x in expected
  ]
  program.prepare(cotangents)
  gradients = program.gradient()
  contest = [(ours, program)]
  rows = [ours]
  kinds = (JaxProgram, case.jax_peers), (TorchProgram, case.torch_peers)
  for kind, peers in kinds:
    for peer, load in peers.items():
      row = Row(name, batch, length, peer)
      rows.append(row)
      other = _enter(row, kind, load, inputs, expected, limit)
      if other is not None:
        _enter_gradient(row, other, cotangents, gradients, limit)
        contest.append((row, other))
  _time(contest, rounds)
  return rows


def _enter(row, kind, load, inputs, expected, limit):
  """The peer's program, or None with the reason in its row."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of its import.
      function = load()
    program = kind(function, inputs)
    start = time.perf_counter()
    outputs = jax.tree.leaves(program.forward())
    taken = time.perf_counter() - start
  except ModuleNotFoundError as missing:
    row.left_out = f"not installed: {missing}"
    return None
  except Exception as error:  # The other peers still run.
    row.left_out = _told(error)
    return None
  row.output_error = _worst(outputs, expected)
  if not row.output_error < ALLOWED:
    row.left_out = f"MISMATCH: outputs differ by {row.output_error:.1e}"
  elif taken > limit:
    row.left_out = f"one call took {taken:.0f} s"
  return program if row.left_out is None else None


def _enter_gradient(row, program, cotangents, expected, limit):
  """Compares the peer's gradients; writes any problem into its row."""
  try:
    program.prepare(cotangents)
    start = time.perf_counter()
    gradients = program.gradient()
    taken = time.perf_counter() - start
  except Exception as error:  # A peer may fail in any way.
    row.no_gradient = _told(error)
    return
  keys = list(expected)
  row.gradient_error = _worst(
    [gradients[key] for key in keys], [expected[key] for key in keys]
  )
  if not row.gradient_error < ALLOWED:
    row.no_gradient = f"MISMATCH: gradients differ by {row.gradient_error:.1e}"
  elif taken > limit:
    row.no_gradient = f"one call took {taken:.0f} s"


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


def _time(contest, rounds):
  """Times all programs in rounds and fills their rows."""
  for direction in ("forward", "gradient"):
    taking_part = [
      (row, getattr(program, direction))
      for row, program in contest
      if direction == "forward" or row.no_gradient is None
    ]
    calls = {row.name: call for row, call in taking_part}
    times, _ = interleave(calls, rounds, math.inf)
    for row, _ in taking_part:
      own = times[row.name]
      setattr(row, direction, float(np.median(own)))
      setattr(row, f"{direction}_ratio", ratio(own, times[OURS]))
  for row, program in contest:
    if row.no_gradient is None:
      row.compile = program.compile
      row.temporary_bytes = program.temporary_bytes


def table(rows: Sequence[Row]) -> str:
  """The rows as text, one line per row."""
  head = (
    f"{'':28}{'error':>9}{'forward':>11}{'ratio':>8}{'grad error':>12}"
    f"{'fwd+bwd':>11}{'ratio':>8}{'compile':>10}{'temporary':>12}"
  )
  lines, last = [], None
  for row in rows:
    group = f"{row.case}, batch {row.batch}, length {row.length}"
    if group != last:
      lines += ["", group, head]
      last = group
    lines.append(_line(row))
  return "\n".join(lines)


def _line(row):
  def show(value, form, unit=""):
    return "-" if value is None else f"{value:{form}}{unit}"

  if row.left_out:
    return f"{row.name:28} {row.left_out}"
  ms = [None if t is None else 1e3 * t for t in (row.forward, row.gradient)]
  size = row.temporary_bytes
  line = (
    f"{row.name:28}{show(row.output_error, '.0e'):>9}"
    f"{show(ms[0], '.1f', ' ms'):>11}{show(row.forward_ratio, '.2f'):>8}"
    f"{show(row.gradient_error, '.0e'):>12}"
    f"{show(ms[1], '.1f', ' ms'):>11}{show(row.gradient_ratio, '.2f'):>8}"
    f"{show(row.compile, '.2f', ' s'):>10}"
    f"{show(None if size is None else size / 2**20, '.1f', ' MiB'):>12}"
  )
  return f"{line}  {row.no_gradient}" if row.no_gradient else line


def main(argv: Sequence[str] | None = None, cases=CASES) -> list[Row]:
  """Runs the command; returns the rows."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.peers",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--case", nargs="+", choices=list(cases))
  parser.add_argument("--length", nargs="+", type=int, default=[2048, 8192])
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
  parser.add_argument(
    "--limit", type=float, default=20.0, help="time limit per call, in seconds"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, help="file for all numbers, in JSON"
  )
  flags = parser.parse_args(argv)
  rows: list[Row] = []
  for name in flags.case or cases:
    for length in flags.length:
      new = measure(
        name, cases[name], flags.batch, length, flags.rounds, flags.limit
      )
      rows += new
      print(table(new), flush=True)
      if (
        flags.out
      ):  # After each case, so that an interrupted run keeps its results.
        text = json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
        flags.out.write_text(text + "\n")
  return rows


if __name__ == "__main__":
  main()
