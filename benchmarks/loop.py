"""Measures the overhead of the training loop, and that of reading data.

Four ways to run the same steps, one after the other in one process:

  bare     dispatch the steps on a batch that is on the device; wait at the end
  loop     `train.loop.run`
  slow     the same, with data that takes as long to read per batch as a step
  waiting  read such a batch, send it, run its step, wait for its metrics

`slow` is 1 if reading overlaps with the steps; `waiting` is about 2.
"""

import argparse
import dataclasses
import tempfile
import time
from typing import Any

import jax
import numpy as np

from train.config import Config, command_line
from train.data import Batches
from train.devices.strategy import Strategy, make_strategy
from train.loop import run
from train.metrics import read_metrics
from train.setup import make_learner
from train.state import init_state


@dataclasses.dataclass(frozen=True)
class Slow:
  """Data that is slow to read.

  Attributes:
    data: the data set.
    seconds: extra time per row.
  """

  data: Any
  seconds: float

  def open(self, split: str) -> Any:
    """Opens a split; only the training split is slow."""
    rows = self.data.open(split)
    return SlowRows(rows, self.seconds) if split == "train" else rows


class SlowRows:
  """Rows that are slow to read."""

  def __init__(self, rows: Any, seconds: float):
    self._rows = rows
    self._seconds = seconds
    self.vocab_size = rows.vocab_size

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Any:
    time.sleep(self._seconds)
    return self._rows[index]


class Hand:
  """Steps without the trainer's loop."""

  def __init__(self, config: Config):
    learner = make_learner(config)
    self._config = config
    self._rows = config.data.open("train")
    self._strategy: Strategy = make_strategy("jit", learner)
    length = len(self._rows[0]["inputs"])
    state = init_state(learner.model, learner.optimizer, config.seed, length)
    self._state = self._strategy.prepare(state)
    self._step(self._batches(self._rows))

  def _batches(self, rows: Any) -> Batches:
    return Batches(rows, self._config.batch_size, seed=0)

  def _step(self, batches: Batches) -> Any:
    batch = self._strategy.batch(next(batches))
    self._state, metrics = self._strategy.step(self._state, batch)
    return jax.device_get(metrics)

  def bare(self) -> float:
    """Returns seconds per step over all steps of the config."""
    batch = self._strategy.batch(next(self._batches(self._rows)))
    begun = time.perf_counter()
    for _ in range(self._config.steps):
      self._state, _ = self._strategy.step(self._state, batch)
    jax.block_until_ready(self._state)
    return (time.perf_counter() - begun) / self._config.steps

  def waiting(self, seconds: float) -> float:
    """The same with slow rows, reading and stepping in turn."""
    batches = self._batches(SlowRows(self._rows, seconds))
    begun = time.perf_counter()
    for _ in range(self._config.steps):
      self._step(batches)
    return (time.perf_counter() - begun) / self._config.steps


def looped(config: Config) -> float:
  """Returns seconds per step of `train.loop.run`, by its own clock.

  This clock excludes compilation, validation and checkpoints. The first line is
  excluded too, because no data was read ahead of its first step.
  """
  with tempfile.TemporaryDirectory() as workdir:
    run(config, workdir)
    lines = [m for m in read_metrics(workdir) if m["split"] == "train"]
  return float(np.mean([line["step_seconds"] for line in lines[1:]]))


def _main() -> None:
  parser = argparse.ArgumentParser("benchmarks.loop", description=__doc__)
  parser.add_argument("--config", default="configs/quickstart.py")
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--rounds", type=int, default=3)
  options = parser.parse_args()
  config = dataclasses.replace(
    command_line.load(options.config),
    steps=options.steps,
    log_every=10,
    eval_batches=1,
    eval_every=options.steps,
    checkpoint_every=options.steps,
  )
  with tempfile.TemporaryDirectory() as compiled:
    # Every run compiles its own step.
    jax.config.update("jax_compilation_cache_dir", compiled)
    hand = Hand(config)
    rounds = []
    for _ in range(options.rounds):
      bare = hand.bare()
      pause = bare / config.batch_size
      slow = dataclasses.replace(config, data=Slow(config.data, pause))
      times = (bare, looped(config), looped(slow), hand.waiting(pause))
      rounds.append([seconds / bare for seconds in times])
      print(f"bare {1e3 * bare:.1f} ms per step; over it:", rounds[-1])
  ratios = np.median(rounds, axis=0)
  for name, ratio in zip(
    ("bare", "loop", "slow", "waiting"), ratios, strict=True
  ):
    print(f"{name:8} {ratio:.3f}")


if __name__ == "__main__":
  _main()
