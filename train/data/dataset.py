"""What a data set is: numbered examples of tokens, and nothing else.

An example is a dictionary of four arrays of one length L:

  inputs       int32    the tokens the model reads
  targets      int32    the token it should predict at each of them
  weights      float32  how much each prediction counts (0: not at all)
  segment_ids  int32    which document a token belongs to, within its row

A document is a run of equal segment ids, of which the first in a row has id 0.
So packed documents do not see each other, and padding, which is a segment of
its own, sees nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Protocol, SupportsIndex

import numpy as np

SPLITS = ("train", "validation")

Example = dict[str, np.ndarray]


class Dataset(Protocol):
  """Examples by number: an example is a function of its index alone."""

  @property
  def vocab_size(self) -> int:
    """Tokens are in `[0, vocab_size)`."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: SupportsIndex, /) -> Example: ...

  def encode(self, content: bytes, /) -> list[int]:
    """Returns the tokens that begin a document with this content."""

  def decode(self, tokens: Iterable[int], /) -> bytes:
    """Returns the content of tokens; works on one token at a time."""


class DataConfig(Protocol):
  """Settings that can open what they describe."""

  def open(self, split: str, /) -> Dataset:
    """Returns the data set of `split`, "train" or "validation"."""


def check_split(split: str) -> None:
  """Raises a `ValueError` unless `split` is one of `SPLITS`."""
  if split not in SPLITS:
    raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def check_index(index: SupportsIndex, size: int) -> int:
  """Returns `index` as an int in `[0, size)`, or raises an `IndexError`."""
  number = operator.index(index)
  if not 0 <= number < size:
    raise IndexError(f"example {number} of a data set of {size}")
  return number


def check_at_least(least: int, **settings: int) -> None:
  """Raises a `ValueError` that names the first setting below `least`."""
  for name, value in settings.items():
    if value < least:
      raise ValueError(f"{name} must be at least {least}, got {value}")


def pad(example: Example, length: int, token: int) -> Example:
  """Pads an example of n <= `length` tokens at its end.

  Args:
    example: arrays [n], with n >= 1.
    length: the length L to pad to.
    token: the input token to pad with.

  Returns:
    Arrays [L]. The padding has weight 0 and is one segment of its own.
  """
  missing = length - len(example["inputs"])
  if not missing:
    return example
  fill = {
    "inputs": token,
    "targets": 0,
    "weights": 0,
    "segment_ids": example["segment_ids"][-1] + 1,
  }
  return {
    name: np.concatenate([row, np.full(missing, fill[name], row.dtype)])
    for name, row in example.items()
  }


class NumberCodec:
  """Writes tokens that are no bytes as decimal numbers, each and a space."""

  def __init__(self, vocab_size: int):
    self._vocab_size = vocab_size

  def encode(self, content: bytes) -> list[int]:
    """Reads numbers between white space.

    Args:
      content: such as `b"3 14 15"`.

    Returns:
      The tokens, such as `[3, 14, 15]`.

    Raises:
      ValueError: for a word that is not a number in the vocabulary.
    """
    tokens = []
    for word in content.split():
      if not word.isdigit() or int(word) >= self._vocab_size:
        raise ValueError(
          f"this data set's tokens are numbers below {self._vocab_size},"
          f" separated by spaces; got {word.decode(errors='replace')!r}"
        )
      tokens.append(int(word))
    return tokens

  def decode(self, tokens: Iterable[int]) -> bytes:
    """Writes tokens as numbers, such as `b"3 14 15 "`."""
    return b"".join(b"%d " % token for token in tokens)
