"""What simple methods reach on the same held-out text."""

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
    For `Text`, in bits per byte of the held-out documents: "unigram", a model
    of single bytes that is fitted to the training split with one added to every
    count, and "gzip", the size under `gzip -9` of the documents joined to one
    file. Joined is the stronger of gzip's two figures: of every file on its
    own it makes more, and it sees 32 KiB back across files where a model that
    is reset at each of them sees nothing. For other data: nothing.
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
    # A time stamp of its own would make the figure depend on the day.
    "gzip": 8 * len(gzip.compress(content, 9, mtime=0)) / len(content),
  }
