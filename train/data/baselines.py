"""Scores of simple methods on the held-out text."""

from __future__ import annotations

import gzip

import numpy as np

from train.data.dataset import DataConfig
from train.data.text import Text


def baselines(config: DataConfig) -> dict[str, float]:
  """Measures simple methods on the data's validation split.

  Args:
    config: the data's settings.

  Returns:
    For `Text`, bits per byte of the held-out documents: "unigram", a model of
    single bytes fitted to the training split with one added to every count, and
    "gzip", the size under `gzip -9` of all documents joined to one file. The
    joined file is the stronger gzip baseline: single files compress less, and
    gzip sees 32 KiB back across files, while a model that is reset at each
    document sees nothing. For other data, an empty dictionary.
  """
  if not isinstance(config, Text):
    return {}
  held_out = config.open("validation")
  counts = config.open("train").byte_counts() + 1
  bits = -np.log2(counts / counts.sum())
  seen = held_out.byte_counts()
  content = held_out.content()
  return {
    "unigram": float(seen @ bits / seen.sum()),
    # gzip's default time stamp would make the size depend on the day.
    "gzip": 8 * len(gzip.compress(content, 9, mtime=0)) / len(content),
  }
