"""Timescales: tasks whose training asks for longer and longer memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.order import Order
from train.data.tasks.task import Rows, SequenceTask

__all__ = ["Curriculum", "DelayedMatch", "NParity"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum(SequenceTask):
  """A task whose training rows become harder, stage by stage.

  The training rows are divided evenly among the stages, in their order, so the
  stage of a row follows from its number. Rows are read in the order of their
  numbers, whatever the seed of the run; a run of `train_examples` rows goes
  once through all stages, and a longer run repeats the rows of the last stage.
  All validation rows have the last difficulty. Khajehabdollahi et al. 2023,
  arXiv:2309.12927.

  The other fields are those of `SequenceTask`.

  Attributes:
    stages: The difficulty of each stage, a memory in tokens. A single number is
      training without a curriculum; a number that is repeated gets more rows.
    cumulative: Whether a row has a random one of the difficulties so far, as in
      the multi-head curriculum of the paper, or that of its stage alone.
  """

  in_order: ClassVar[bool] = True

  stages: tuple[int, ...] = (2, 4, 8)
  cumulative: bool = False

  def row_of(
    self, rng: np.random.Generator, difficulty: int
  ) -> dict[str, np.ndarray]:
    """Draws a row of a difficulty; the result is that of `row`."""
    raise NotImplementedError

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row of the last difficulty; see `SequenceTask.row`."""
    return self.row_of(rng, self.stages[-1])

  def numbered_row(
    self, split: str, index: int, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """See `SequenceTask.numbered_row`."""
    if split != "train":
      return self.row(rng)
    stage = index * len(self.stages) // self.train_examples
    difficulty = self.stages[stage]
    if self.cumulative:
      difficulty = int(rng.choice(self.stages[: stage + 1]))
    return self.row_of(rng, difficulty)

  def dataset(self, source: Sequence[dict[str, Any]], split: str) -> Rows:
    """See `SequenceTask.dataset`."""
    if split != "train":
      return super().dataset(source, split)
    before = (len(self.stages) - 1) * self.train_examples
    # Rounded up: the first row of the last stage.
    return StagedRows(source, self.vocab_size, -(-before // len(self.stages)))

  def check(self) -> None:
    """See `SequenceTask.check`."""
    if not self.stages:
      raise ValueError("stages must have at least one difficulty, got none")
    check_at_least(1, **{"each of stages": min(self.stages)})
    check_at_least(len(self.stages), train_examples=self.train_examples)


class StagedRows(Rows):
  """Rows that are read in their order, and then again from the last stage.

  Args:
    source: The rows.
    vocab_size: The number of different tokens.
    last_stage: The number of the first row of the last stage.
  """

  def __init__(
    self,
    source: Sequence[dict[str, Any]],
    vocab_size: int | None,
    last_stage: int,
  ):
    super().__init__(source, vocab_size)
    self._last_stage = last_stage

  def order(self, seed: Sequence[int] | None) -> Order:
    """Returns the order of the numbers; the seed does not change it."""
    del seed
    first = self._last_stage
    repeated = len(self) - first

    def order(places: np.ndarray) -> np.ndarray:
      return np.where(
        places < first, places, first + (places - first) % repeated
      )

    return order


@dataclasses.dataclass(frozen=True, kw_only=True)
class NParity(Curriculum):
  """Whether the number of ones among the last N bits is odd.

  A row is the name of its N and then random bits, tokens 0 and 1. The target at
  a bit is the parity of this bit and the N - 1 bits before it; it counts where
  there are so many bits. The difficulty is N. Khajehabdollahi et al. 2023,
  arXiv:2309.12927, have one output per N instead of the name, and train all of
  them on the same bits.
  """

  name: ClassVar[str] = "n_parity"

  @property
  def vocab_size(self) -> int:
    """Two bits and the names of all N."""
    return 2 + len(set(self.stages))

  def check(self) -> None:
    """See `SequenceTask.check`."""
    super().check()
    check_at_least(1 + max(self.stages), length=self.length)

  def row_of(
    self, rng: np.random.Generator, difficulty: int
  ) -> dict[str, np.ndarray]:
    """See `Curriculum.row_of`."""
    inputs = rng.integers(0, 2, self.length)
    inputs[0] = 0
    ones = np.cumsum(inputs)
    targets = np.zeros(self.length, np.int32)
    targets[difficulty:] = (ones[difficulty:] - ones[:-difficulty]) % 2
    inputs[0] = 2 + sorted(set(self.stages)).index(difficulty)
    counts = np.arange(self.length) >= difficulty
    return {
      "inputs": inputs.astype(np.int32),
      "targets": targets,
      "weights": counts.astype(np.float32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DelayedMatch(Curriculum):
  """Whether a probe after a delay is the same symbol as the cue before it.

  A row is noise with as many trials as fit. A trial is a cue, a delay of noise,
  and a probe, whose target is 1 if it shows the symbol of the cue and else 0;
  each has half of the trials. Cues are tokens 0 to symbols - 1, probes the next
  ones, and noise tokens the last ones. The difficulty is the delay in tokens.

  Khajehabdollahi et al. 2023, arXiv:2309.12927, compare bits in a stream of
  bits: there every bit is a cue and a probe.

  Attributes:
    symbols: The number of symbols of cues and probes.
    noise_tokens: The number of noise tokens.
  """

  name: ClassVar[str] = "delayed_match"

  symbols: int = 4
  noise_tokens: int = 4

  @property
  def vocab_size(self) -> int:
    """Cues, probes and noise."""
    return 2 * self.symbols + self.noise_tokens

  def check(self) -> None:
    """See `SequenceTask.check`."""
    super().check()
    check_at_least(2, symbols=self.symbols)
    check_at_least(1, noise_tokens=self.noise_tokens)
    check_at_least(2 + max(self.stages), length=self.length)

  def row_of(
    self, rng: np.random.Generator, difficulty: int
  ) -> dict[str, np.ndarray]:
    """See `Curriculum.row_of`."""
    noise = rng.integers(0, self.noise_tokens, self.length)
    inputs = 2 * self.symbols + noise
    trials, rest = divmod(self.length, difficulty + 2)
    # The rest is noise, some of it before the first trial.
    start = int(rng.integers(0, rest + 1))
    cues = start + (difficulty + 2) * np.arange(trials)
    probes = cues + difficulty + 1
    same = rng.integers(0, 2, trials)
    shown = rng.integers(0, self.symbols, trials)
    shift = np.where(same, 0, rng.integers(1, self.symbols, trials))
    inputs[cues] = shown
    inputs[probes] = self.symbols + (shown + shift) % self.symbols
    targets = np.zeros(self.length, np.int32)
    targets[probes] = same
    weights = np.zeros(self.length, np.float32)
    weights[probes] = 1
    return {
      "inputs": inputs.astype(np.int32),
      "targets": targets,
      "weights": weights,
    }
