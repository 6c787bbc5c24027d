"""Rows of a task with one target each, as sequences with a class."""

from __future__ import annotations

import dataclasses
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import Dataset, Example, NumberCodec, at_length

__all__ = ["Classes"]


@dataclasses.dataclass(frozen=True)
class Classes:
  """The rows of a task with one target per row, for `models.Classifier`.

  An example has "inputs" [L] and "targets", the class [], which is the target
  of the only position of the row that has a weight. With `fill` it also has a
  "mask" [L] of the tokens that are not `fill`. Use it with the loss
  `Classification(pooling="none")`.

  Attributes:
    task: The task, such as `Digits()` or `ListOps()`.
    fill: The token that fills rows up to L, which the model must not read; None
      if there is none.
  """

  task: Any
  fill: int | None = None

  def open(self, split: str) -> Classified:
    """Opens a split of the task.

    Args:
      split: "train" or "validation".

    Raises:
      ValueError: A setting of the task is wrong, or a row has more targets than
        one.
    """
    return Classified(self.task.open(split), self.fill)

  def chance(self) -> float:
    """The accuracy of the most frequent class of the validation split.

    It is the accuracy of the best guess that does not see the row.
    """
    rows = self.read_only().open("validation")
    classes = [int(rows[number]["targets"]) for number in range(len(rows))]
    counts = np.bincount(classes)
    return float(counts.max() / counts.sum())

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns what reads and writes tokens as numbers."""
    return None if vocab_size is None else NumberCodec(vocab_size)

  def at_length(self, length: int) -> Classes:
    """Returns the rows at another length."""
    return dataclasses.replace(self, task=at_length(self.task, length))

  def read_only(self) -> Classes:
    """Returns settings whose task writes nothing."""
    make = getattr(self.task, "read_only", None)
    return self if make is None else dataclasses.replace(self, task=make())


class Classified:
  """Sequences with a class; see `Classes`."""

  # The class of a row is no position of it.
  sequence = ("inputs", "mask")

  def __init__(self, rows: Dataset, fill: int | None):
    self._rows, self._fill = rows, fill
    self.vocab_size = rows.vocab_size
    self.encode, self.decode = rows.encode, rows.decode

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> Example:
    row = self._rows[index]
    places = np.flatnonzero(row["weights"])
    if len(places) != 1:
      raise ValueError(
        f"a row of Classes needs one position with a weight, got {len(places)}"
      )
    inputs = row["inputs"]
    found = {"inputs": inputs, "targets": row["targets"][places[0]]}
    if self._fill is not None:
      found["mask"] = inputs != self._fill
    return found
