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

import hashlib
import json
import operator
from collections.abc import Iterable
from typing import Protocol, SupportsIndex

import numpy as np

SPLITS = ("train", "validation")
# Threads that read, for data that do not say how many may. Threads that wait
# cost nothing, and a disk or a network answers many requests at a time.
THREADS = 16

Example = dict[str, np.ndarray]


class Codec(Protocol):
  """Turns what a user writes into tokens and back."""

  def encode(self, content: bytes, /) -> list[int]:
    """Returns the tokens that begin a document with this content."""

  def decode(self, tokens: Iterable[int], /) -> bytes:
    """Returns the content of tokens; works on one token at a time."""


class Dataset(Codec, Protocol):
  """Examples by number: an example is a function of its index alone.

  It may have a method `digest() -> str`, which tells it from other data; see
  `digest` below for what is done without it. Its attribute `threads`, 16 if
  there is none, is how many threads may read examples at the same time; with 0
  the loop itself reads them, between two steps.
  """

  @property
  def vocab_size(self) -> int:
    """Tokens are in `[0, vocab_size)`."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: SupportsIndex, /) -> Example: ...


class DataConfig(Protocol):
  """Settings that can open what they describe.

  They may have two more methods. `codec(vocab_size)` returns the `Codec` of the
  data without opening them, so that text can be generated where they are not;
  `vocab_size` is that of the opened data, or None where it is not known, and
  the result may be None. `read_only()` returns settings whose `open` writes
  and downloads nothing.
  """

  def open(self, split: str, /) -> Dataset:
    """Returns the data set of `split`, "train" or "validation"."""


# Examples that tell one data set from another.
_SPREAD = 1024


def digest(dataset: Dataset) -> str:
  """Returns a number, in hexadecimal, that other data do not have.

  Data sets that know better say so by their own `digest()`. Of others it is
  made of their length, the vocabulary, and all examples, or 1,024 of them at
  even distances where there are more.

  Args:
    dataset: the data.
  """
  own = getattr(dataset, "digest", None)
  return str(own()) if own is not None else digest_of_examples(dataset)


def digest_of_examples(dataset: Dataset, *more: object) -> str:
  """Returns what `digest` makes of data without a method of their own.

  Args:
    dataset: the data.
    *more: what JSON can hold, which is counted in.
  """
  size = len(dataset)
  content = hashlib.blake2b(digest_size=16)
  content.update(json.dumps([size, dataset.vocab_size, *more]).encode())
  count = min(size, _SPREAD)
  for place in range(count):
    row = dataset[place * (size - 1) // max(count - 1, 1)]
    for name in sorted(row):
      array = np.asarray(row[name])
      content.update(f"{name} {array.dtype} {array.shape} ".encode())
      content.update(array.tobytes())
  return content.hexdigest()


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
  """Writes tokens that are no bytes as decimal numbers, each and a space.

  Args:
    vocab_size: the numbers are below it.
    start: a token that begins every document, if there is one; it is written
      as nothing.
  """

  def __init__(self, vocab_size: int, start: int | None = None):
    self._vocab_size = vocab_size
    self._start = start

  def encode(self, content: bytes) -> list[int]:
    """Reads numbers between white space.

    Args:
      content: such as `b"3 14 15"`.

    Returns:
      The tokens, such as `[3, 14, 15]`, behind the start token.

    Raises:
      ValueError: for a word that is not a number in the vocabulary.
    """
    tokens = [] if self._start is None else [self._start]
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
    return b"".join(b"%d " % token for token in tokens if token != self._start)
