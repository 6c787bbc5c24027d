"""Chooses how the steps of replicas are computed, by measuring both ways."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from train import files
from train.config import Config
from train.data.batches import stack as stack_examples
from train.devices.strategy import Strategy
from train.errors import UserError, one_line
from train.files import untrusted
from train.replicas.members import MODES
from train.replicas.programs import Stack
from train.setup import Shared

FILE_NAME = "replicas.json"
# Rounds of each mode that are timed; the quickest one counts.
_ROUNDS = 7
# Rounds in turn before `vmap` is tried.
_FIRST = 3
# Seconds per step above which `vmap` is not tried on a CPU. A CPU gains by
# `vmap` only from far shorter steps (see the table in train/REPLICAS.md), but
# steps take longer on a busy machine.
_LONG = 0.02
# A measurement pays only if all steps of a run take longer than this many
# compilations.
_SHORT = 5


@dataclasses.dataclass(frozen=True)
class Measured:
  """Seconds per round, which is one step of each replica.

  Attributes:
    mode: "turn" or "vmap", whichever is quicker.
    turn: Seconds in turn.
    vmap: Seconds under `vmap`; None if that was not measured.
    why: Why `vmap` was not measured.
    compile_seconds: Seconds of the first round of the chosen mode, which
      compiles its program.
  """

  mode: str
  turn: float
  vmap: float | None = None
  why: str = ""
  compile_seconds: float | None = None

  def line(self, count: int) -> str:
    """Returns what was found, as one line."""
    found = f"one step of {count} replicas takes {1e3 * self.turn:.3g} ms in"
    found += " turn"
    if self.vmap is None:
      return f"mode turn: {found}, and vmap was not tried, since {self.why}"
    other = f"{1e3 * self.vmap:.3g} ms under vmap"
    return f"mode {self.mode}: {found} and {other}"


def measure(
  config: Config,
  shared: Shared,
  turn: Sequence[Strategy],
  stack: Stack,
  *,
  always: bool = False,
  clock: Callable[[], float] = time.perf_counter,
) -> Measured:
  """Times a few rounds of each mode, on states that are then thrown away.

  The compiled programs stay, so only the program of the other mode was compiled
  in vain. That of `vmap` is not compiled where `vmap` cannot pay.

  Args:
    config: The config of one of the replicas.
    shared: What the replicas share.
    turn: The strategies of the replicas in turn.
    stack: The stack of the replicas, for `vmap`.
    always: Whether to measure `vmap` even where it cannot pay.
    clock: Returns the time in seconds.
  """
  run = _rounds(config, shared, turn, lambda: None, clock)
  compile_seconds = next(run)
  # The quickest of some rounds, since other processes disturb them.
  seconds = min(next(run) for _ in range(_FIRST))
  why = "" if always else _refusal(config, seconds, len(turn), compile_seconds)
  if why:
    return Measured("turn", seconds, None, why, compile_seconds)
  try:
    stacked = _rounds(config, shared, stack.strategies(), stack.wait, clock)
    compile_stacked = next(stacked)
    # The modes alternate, so that other processes disturb both alike.
    both = [(next(run), next(stacked)) for _ in range(_ROUNDS)]
  # A user's own model may have code without a rule for `vmap`; memory may be
  # too small.
  except Exception as error:
    why = f"it fails: {one_line(error, 200)}"
    return Measured("turn", seconds, None, why, compile_seconds)
  finally:
    stack.clear()
  seconds, other = (min(times) for times in zip(*both, strict=True))
  if other < seconds:
    return Measured("vmap", seconds, other, "", compile_stacked)
  return Measured("turn", seconds, other, "", compile_seconds)


def _refusal(
  config: Config, seconds: float, count: int, compile_seconds: float
) -> str:
  """Says why `vmap` cannot pay; "" if it may."""
  on_cpu = jax.local_devices()[0].platform == "cpu"
  if on_cpu and seconds > _LONG * count:
    return f"a CPU gains only from steps of less than {1e3 * _LONG:g} ms"
  if config.steps * seconds < _SHORT * compile_seconds:
    return "its compilation would outweigh the gain in so short a run"
  return ""


def _rounds(
  config: Config,
  shared: Shared,
  strategies: Sequence[Strategy],
  wait: Callable[[], object],
  clock: Callable[[], float],
) -> Iterator[float]:
  """Yields the seconds of each round, without end; the first one compiles."""
  examples = [shared.first] * config.batch_size
  batch = shared.strategy.batch(stack_examples(examples))
  seed = np.uint32(config.seed)
  states = [one.prepare(shared.draw(seed)) for one in strategies]
  jax.block_until_ready(states)
  while True:
    begun = clock()
    for i, one in enumerate(strategies):
      states[i], _ = one.step(states[i], batch)
    jax.block_until_ready(states)
    wait()
    yield clock() - begun


def read(workdir: str) -> str | None:
  """Returns the mode that was chosen when the replicas began, or None."""
  path = os.path.join(workdir, FILE_NAME)
  if not os.path.lexists(path):
    return None
  try:
    found = untrusted.read_json(path)
    mode = found["mode"] if isinstance(found, dict) else None
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f"{path} cannot be read: {one_line(error)}") from error
  if mode not in MODES[1:]:
    raise UserError(f"{path} has no mode turn or vmap: remove the file")
  return mode


def write(workdir: str, mode: str, found: Measured | None) -> None:
  """Writes the mode, and what was measured, for the command that resumes."""
  document: dict[str, Any] = {"mode": mode}
  if found is not None:
    document |= {"turn_seconds": found.turn, "vmap_seconds": found.vmap}
  content = json.dumps(document, indent=2).encode()
  files.replace(os.path.join(workdir, FILE_NAME), content)
