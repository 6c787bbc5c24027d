"""The base of tasks whose examples are drawn when they are read."""

from __future__ import annotations

import dataclasses
from typing import SupportsIndex

import numpy as np

from train.data.dataset import (
  SPLITS,
  Example,
  check_at_least,
  check_index,
  check_split,
)

__all__ = ["DrawnTask"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnTask:
  """Examples that follow from the seed, the split and their number alone.

  A subclass is a frozen dataclass with the settings of the task and the method
  `row`. Nothing is stored, and no axis of an array is a sequence that a mesh
  could shard.

  Attributes:
    train_examples: Number of examples of the training split.
    validation_examples: Number of examples of the validation split.
    seed: At least 0; determines the examples.
  """

  train_examples: int = 20_000
  validation_examples: int = 500
  seed: int = 0

  def row(self, rng: np.random.Generator) -> Example:
    """Draws an example.

    Args:
      rng: The source of randomness.
    """
    raise NotImplementedError

  def check(self) -> None:
    """Raises a ValueError for a setting that is out of range."""

  def open(self, split: str) -> DrawnRows:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range.
    """
    check_split(split)
    check_at_least(
      1,
      train_examples=self.train_examples,
      validation_examples=self.validation_examples,
    )
    check_at_least(0, seed=self.seed)
    self.check()
    return DrawnRows(self, split)


class DrawnRows:
  """The examples of a split; see `DrawnTask`."""

  sequence: tuple[str, ...] = ()

  def __init__(self, settings: DrawnTask, split: str):
    self._settings, self._split = settings, SPLITS.index(split)
    self._count = getattr(settings, f"{split}_examples")

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = check_index(index, len(self))
    seeds = [self._settings.seed, self._split, number]
    return self._settings.row(np.random.default_rng(seeds))
