"""ArrayRecord files by path: one record of tokens per example."""

from __future__ import annotations

import dataclasses
import glob
import os
from typing import Any

import numpy as np

from train.data.dataset import (
  NumberCodec,
  check_at_least,
  check_split,
)
from train.data.shards import DTYPES
from train.data.tfds import NamedDataset
from train.errors import one_line


@dataclasses.dataclass(frozen=True)
class Records:
  """ArrayRecord files whose records are tokens, little-endian, by path.

  A record becomes one row, as an example of `Tfds` does: cropped or padded to
  `length`, behind a start token, which is `vocab_size`. For data sets that tfds
  has prepared use `Tfds(name=..., data_dir=...)`.

  Attributes:
    train: Files, as a path with `*`, such as "data/train-*.array_record".
    validation: The files of the validation split.
    length: Tokens per row, L.
    vocab_size: Tokens are in `[0, vocab_size)`.
    dtype: Of the tokens: "uint16" or "uint32".
  """

  train: str = ""
  validation: str = ""
  length: int = 512
  vocab_size: int = 0
  dtype: str = "uint16"

  def open(self, split: str) -> NamedDataset:
    """Opens the files of a split.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: for a setting out of range, or files that are missing or no
        ArrayRecord files.
    """
    check_split(split)
    check_at_least(1, length=self.length, vocab_size=self.vocab_size)
    if self.dtype not in DTYPES:
      raise ValueError(f"dtype must be one of {DTYPES}, got {self.dtype!r}")
    pattern = getattr(self, split)
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if not paths:
      raise ValueError(
        f"no file matches {pattern!r}: set {split} to ArrayRecord files"
      )
    sizes = [os.path.getsize(path) for path in paths]
    source: Any = _Records(paths, self.dtype)
    return NamedDataset(source, "tokens", self.vocab_size, self.length, sizes)

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns what reads and writes tokens as numbers."""
    if self.vocab_size < 1:
      return None
    return NumberCodec(self.vocab_size, start=self.vocab_size)


class _Records:
  """Records of files as dictionaries of one array."""

  def __init__(self, paths: list[str], dtype: str):
    # Its C++ code takes a moment to load.
    from array_record.python import array_record_data_source

    self._dtype = np.dtype(dtype).newbyteorder("<")
    try:
      self._source = array_record_data_source.ArrayRecordDataSource(paths)
    # It raises what its C++ code does.
    except Exception as error:
      raise ValueError(
        f"cannot read the ArrayRecord files {paths[0]!r} ...:"
        f" {one_line(error, 200)}"
      ) from error

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    record = self._source[number]
    if len(record) % self._dtype.itemsize:
      raise ValueError(
        f"record {number} has {len(record)} bytes, which are no whole number of"
        f" {self._dtype.name}: check the data's dtype"
      )
    return {"tokens": np.frombuffer(record, self._dtype)}
