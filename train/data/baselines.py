"""Scores of simple methods on the held-out text."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from train.data.dataset import Dataset

# Bytes of each split that are read; 64 MiB take gzip about four seconds.
MOST = 1 << 26
# Examples that are read at a time.
_ROWS = 1024


def baselines(train: Dataset, validation: Dataset) -> dict[str, float]:
  """Measures simple methods on held-out text.

  Args:
    train: the training split.
    validation: the validation split.

  Returns:
    For data with a method `content`, bits per byte of the first 64 MiB of the
    held-out text: "unigram", a model of single bytes fitted to the first 64 MiB
    of the training text with one added to every count, and "gzip", the size
    under `gzip -9` of all documents joined to one file. The joined file is the
    stronger gzip baseline: single files compress less, and gzip sees 32 KiB
    back across files, while a model that is reset at each document sees
    nothing. For other data, an empty dictionary.
  """
  if not hasattr(train, "content") or not hasattr(validation, "content"):
    return {}
  content = b"".join(_pieces(validation))
  if not content:
    return {}
  counts = np.ones(256, np.int64)
  for piece in _pieces(train):
    counts += _counts(piece)
  bits = -np.log2(counts / counts.sum())
  return {
    "unigram": float(_counts(content) @ bits / len(content)),
    # gzip's default time stamp would make the size depend on the day.
    "gzip": 8 * len(gzip.compress(content, 9, mtime=0)) / len(content),
  }


def _pieces(dataset: Dataset) -> Iterator[bytes]:
  """Yields the text of a split, at most `MOST` bytes of it."""
  left = MOST
  for start in range(0, len(dataset), _ROWS):
    stop = min(start + _ROWS, len(dataset))
    piece = cast(Any, dataset).content(start, stop)[:left]
    left -= len(piece)
    yield piece
    if not left:
      return


def _counts(content: bytes) -> np.ndarray:
  return np.bincount(np.frombuffer(content, np.uint8), minlength=256)
