"""Replicas in turn, under vmap, and in separate processes, in one run.

  python -m benchmarks.replicas

trains eight seeds of `configs/mqar.py` on batches of 16 x 64 tokens, for
several widths, and prints two tables of ratios.

  step     one step of each replica, after compilation, by the measurement that
           `--replica-mode auto` makes, and what that chose
  command  the whole command with all starts and compilations: `--replicas 8`
           in either mode, and eight commands, as many at a time as there are
           cores; each measurement begins with an empty compilation cache

Beside the time on the wall, which other processes disturb, both tables have the
time of all cores together. `--steps` sets the steps of the whole command; with
0, there is no second table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from train.config import Config, command_line, layout
from train.replicas import choice
from train.replicas.programs import Stack, in_turn
from train.setup import share

CONFIG = "configs/mqar.py"
COUNT = 8
# Steps of the run that `auto` chooses for.
_LONG_RUN = 10_000
CORES = os.cpu_count() or 1
# One validation, after the last step.
_WORDS = ("--eval-every=1000000", "--eval-batches=4")


def config_of(width: int, batch: int, steps: int) -> tuple[Config, list[str]]:
  """Returns the config of a width, and the flags that make it."""
  sizes = [f"--model.width={width}", f"--batch-size={batch}"]
  words = [*_WORDS, *sizes, f"--steps={steps}"]
  return command_line.override(command_line.load(CONFIG), words), words


def seconds(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
  """Returns how long commands of the trainer take, on the wall and of cores."""
  with tempfile.TemporaryDirectory() as folder:
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
    begun, used, running = time.perf_counter(), 0.0, 0
    for i, words in enumerate([*commands, *[None] * CORES]):
      if running >= CORES or (words is None and running):
        _, status, usage = os.wait3(0)
        if status:
          raise RuntimeError(f"a command failed: {status}")
        used += usage.ru_utime + usage.ru_stime
        running -= 1
      if words is not None:
        workdir = f"--workdir={folder}/{i}"
        subprocess.Popen(
          [sys.executable, "-m", "train", CONFIG, *words, workdir],
          env=env,
          stdout=subprocess.DEVNULL,
        )
        running += 1
    return time.perf_counter() - begun, used


def row_of_steps(width: int, batch: int, rounds: int) -> str:
  """Measures the steps of a width several times, and returns a row."""
  config, _ = config_of(width, batch, _LONG_RUN)
  shared = share(config, layout(config, jax.device_count()), {})
  stack = Stack(config, shared, None, COUNT)
  given = config, shared, in_turn(config, shared, None, COUNT), stack
  auto = choice.measure(*given)
  cells = [auto.mode if auto.vmap else f"{auto.mode}: {auto.why}"]
  for clock in (time.process_time, time.perf_counter):
    found = [
      choice.measure(*given, always=True, clock=clock) for _ in range(rounds)
    ]
    turn = min(x.turn for x in found) / COUNT
    ratios = sorted(x.vmap / x.turn for x in found if x.vmap is not None)
    span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    cells = [
      f"{1e3 * turn:.2f} ms",
      f"{np.median(ratios):.2f} ({span})",
      *cells,
    ]
  return f"| {width} | {' | '.join(cells)} |"


def row_of_commands(width: int, batch: int, steps: int) -> str:
  """Runs the commands of a width, and returns a row."""
  _, words = config_of(width, batch, steps)
  turn, vmap = (
    seconds([[*words, f"--replicas={COUNT}", f"--replica-mode={mode}"]])
    for mode in ("turn", "vmap")
  )
  alone = seconds([[*words, f"--seed={seed}"] for seed in range(COUNT)])
  cells = [f"{x:.0f} s" for x in turn]
  for found in (vmap, alone):
    cells += [f"{x / y:.2f}" for x, y in zip(found, turn, strict=True)]
  return f"| {width} | {' | '.join(cells)} |"


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=200)
  options = parser.parse_args()
  titles = ["step in turn", "vmap / turn"]
  both = [f"{title}{end}" for end in ("", ", cores") for title in titles]
  print(
    f"| width | {' | '.join(both)} | auto |\n|---:{'|---:' * len(both)}|---|"
  )
  for width in options.widths:
    print(row_of_steps(width, options.batch_size, options.rounds), flush=True)
  if not options.steps:
    return
  titles = ["turn", "vmap / turn", "eight commands / turn"]
  both = [f"{title}{end}" for title in titles for end in ("", ", cores")]
  print(f"\n| width | {' | '.join(both)} |\n|---:{'|---:' * len(both)}|")
  for width in options.widths:
    print(row_of_commands(width, options.batch_size, options.steps), flush=True)


if __name__ == "__main__":
  main()
