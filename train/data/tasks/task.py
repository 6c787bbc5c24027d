"""The base of synthetic tasks: rows that follow from a seed and a number."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import numpy as np

from train.data.dataset import (
  SPLITS,
  Dataset,
  Example,
  NumberCodec,
  check_at_least,
  check_index,
  check_split,
)

__all__ = ["SequenceTask"]

# Longest name of a folder of examples; longer settings are hashed.
_LONGEST_NAME = 150
# Rows over which the frequencies of targets are counted.
_COUNTED = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceTask:
  """A synthetic task: a subclass says how to draw a row.

  A subclass is a frozen dataclass with the settings of the task, the class
  attribute `name`, the property `vocab_size`, and the method `row`. A `tfds`
  builder generates the rows once and stores them in `data_dir`, in a folder
  whose name contains all settings.

  Attributes:
    length: Tokens per row, L.
    validation_length: Tokens per row of the validation split, to measure how a
      model does beyond the length of its training; None for `length`.
    train_examples: Number of training rows.
    validation_examples: Number of validation rows.
    seed: At least 0; determines the rows.
    data_dir: The folder in which the rows are stored.
  """

  name: ClassVar[str]
  # Increase it when the same settings give different rows.
  version: ClassVar[str] = "1.0.0"
  # Whether files keep the rows in the order of generation; see `Curriculum`.
  in_order: ClassVar[bool] = False

  length: int = 64
  validation_length: int | None = None
  train_examples: int = 20_000
  validation_examples: int = 1_000
  seed: int = 0
  data_dir: str = "data"

  @property
  def vocab_size(self) -> int | None:
    """The number of different tokens of inputs and targets.

    None for a task of real numbers.
    """
    raise NotImplementedError

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row.

    Args:
      rng: The source of randomness.

    Returns:
      `inputs` int32 [L] and `targets` int32 [L]; `weights` float32 [L], without
      which all predictions count; and `segment_ids` int32 [L], without which
      the row is one document. The inputs and targets of a task of real numbers
      are float32 [L, ...].
    """
    raise NotImplementedError

  def numbered_row(
    self, split: str, index: int, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    """Draws row `index` of a split; without a curriculum all are alike.

    Args:
      split: "train" or "validation".
      index: The number of the row.
      rng: The source of randomness, which depends on seed, split and index.

    Returns:
      See `row`.
    """
    del split, index
    return self.row(rng)

  def check(self) -> None:
    """Raises a ValueError for a setting that is out of range."""

  def chance(self) -> float:
    """The accuracy of the most frequent target, counted over 1,000 rows.

    It is the accuracy of the best guess that does not see the row. A task
    without tokens overrides it.
    """
    counts = np.zeros(self.vocab_size or 0)
    rows = dataclasses.replace(self, validation_examples=_COUNTED)
    for row in rows.generate("validation"):
      np.add.at(counts, row["targets"], row["weights"])
    return float(counts.max() / counts.sum())

  def open(self, split: str) -> Dataset:
    """Opens a split; generates the rows first if they are missing.

    Args:
      split: "train" or "validation".

    Raises:
      ValueError: A setting is out of range.
    """
    self._check_all(split)
    # tfds is slow to import, so it is imported only to open the data.
    from train.data.tasks import builder

    return self.dataset(builder.read(self, split), split)

  def dataset(self, source: Sequence[dict[str, Any]], split: str) -> Rows:
    """Returns the rows of a split as a data set.

    Args:
      source: What `generate` yields.
      split: "train" or "validation".
    """
    del split
    return Rows(source, self.vocab_size)

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns the codec between tokens and decimal numbers, if any."""
    return None if self.vocab_size is None else NumberCodec(self.vocab_size)

  def read_only(self) -> InMemory:
    """Returns settings that generate the rows in memory."""
    return InMemory(self)

  def at_length(self, length: int) -> SequenceTask:
    """Returns the same task with rows of another length, in both splits."""
    return dataclasses.replace(self, length=length, validation_length=None)

  def folder(self) -> str:
    """Returns the name of the folder of the rows, made from all settings."""
    fields = dataclasses.asdict(self)
    del fields["data_dir"]
    name = "-".join(f"{key}_{value}" for key, value in fields.items())
    if len(name) <= _LONGEST_NAME:
      return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"length_{self.length}-seed_{self.seed}-{digest}"

  def generate(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows of a split, with weights."""
    task = self
    if split == "validation" and self.validation_length is not None:
      task = self.at_length(self.validation_length)
    for index in range(getattr(self, f"{split}_examples")):
      rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
      row = task.numbered_row(split, index, rng)
      ones = np.ones(np.shape(row["targets"])[:1], np.float32)
      yield {"weights": ones, **row}

  def _check_all(self, split: str) -> None:
    check_split(split)
    check_at_least(
      1,
      length=self.length,
      train_examples=self.train_examples,
      validation_examples=self.validation_examples,
    )
    check_at_least(0, seed=self.seed)
    if self.validation_length is not None:
      check_at_least(1, validation_length=self.validation_length)
      self.at_length(self.validation_length).check()
    self.check()


class InMemory(NamedTuple):
  """Opens the rows of a task without files, in the order of generation.

  Stored rows have another order, that of tfds, unless the task is `in_order`.
  """

  settings: SequenceTask

  def open(self, split: str) -> Dataset:
    """Opens a split, as the task does."""
    self.settings._check_all(split)
    rows = list(self.settings.generate(split))
    return self.settings.dataset(rows, split)


class Rows:
  """Rows of a task, with one segment each unless the task says otherwise.

  A task without a vocabulary has no codec.
  """

  def __init__(self, source: Sequence[dict[str, Any]], vocab_size: int | None):
    self._source = source
    self.vocab_size = vocab_size
    if vocab_size is not None:
      codec = NumberCodec(vocab_size)
      self.encode = codec.encode
      self.decode = codec.decode

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: SupportsIndex) -> Example:
    row = self._source[check_index(index, len(self))]
    segments = np.zeros(len(row["inputs"]), np.int32)
    return {"segment_ids": segments, **row}
