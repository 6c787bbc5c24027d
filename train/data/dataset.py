"""The interface of a data set: numbered examples of tokens.

An example is a dictionary of four arrays of length L:

  inputs       int32    the tokens that the model reads
  targets      int32    the token to predict at each position
  weights      float32  weight of each prediction in the loss (0: ignored)
  segment_ids  int32    the document that each token belongs to, within the row

An entry may also be a dictionary or tuple of arrays. Examples that are no
tokens have other arrays: see `train.losses`.

Consecutive tokens with equal segment ids form one document; the first document
of a row has id 0. Packed documents do not see each other, and padding is a
segment of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, SupportsIndex

import numpy as np

SPLITS = ("train", "validation")
# Threads that read, for data that do not say how many may. Threads that wait
# cost nothing, and a disk or a network answers many requests at a time.
THREADS = 16

# The token that begins a document of bytes.
SEPARATOR = 256

# Arrays by name; an entry may be a dictionary or tuple of arrays.
Example = dict[str, Any]


class Codec(Protocol):
  """Converts a user's input to tokens, and tokens to output."""

  def encode(self, content: bytes, /) -> list[int]:
    """Returns the tokens of a document that begins with this content."""

  def decode(self, tokens: Iterable[int], /) -> bytes:
    """Returns the content of tokens; tokens can be decoded one by one."""


class Dataset(Codec, Protocol):
  """A sequence of examples; an example depends on its index alone.

  A data set may have a method `digest() -> str`, which distinguishes it from
  other data; otherwise the function `digest` below computes one. It may have an
  attribute `threads`: the number of threads that may read examples at the same
  time, 16 by default. With 0 the loop itself reads them between two steps.

  Data whose tokens stand for text have a method
  `content(start, stop) -> bytes`: the bytes that the predictions of examples
  `[start, stop)` stand for. With it, a validation has the metric
  "bits_per_byte", beside the scores of gzip and of a unigram model. If a
  tokenizer does not keep every byte, the data also have
  `content_bytes(start, stop) -> int`, the number of bytes before tokenisation.
  """

  @property
  def vocab_size(self) -> int | None:
    """Number of different tokens; tokens are in `[0, vocab_size)`.

    None for real numbers.
    """

  def __len__(self) -> int: ...

  def __getitem__(self, index: SupportsIndex, /) -> Example: ...


class DataConfig(Protocol):
  """Settings of a data set, with a method that opens it.

  The settings may have three more methods. `codec(vocab_size)` returns the
  `Codec` of the data without opening them, so that a machine without the data
  can generate text; `vocab_size` is that of the opened data, or None if
  unknown, and the result may be None. `read_only()` returns settings whose
  `open` writes and downloads nothing. `at_length(length)` returns settings of
  the same data with sequences of another length; a dataclass with a field
  `length` does without it.
  """

  def open(self, split: str, /) -> Dataset:
    """Returns the data set of `split`, "train" or "validation"."""


def at_length(config: Any, length: int) -> Any:
  """Returns settings of the same data with sequences of another length.

  Args:
    config: A `DataConfig`.
    length: L of the new examples.

  Raises:
    ValueError: The data cannot be opened at another length.
  """
  own = getattr(config, "at_length", None)
  if own is not None:
    return own(length)
  if "length" not in getattr(config, "__dataclass_fields__", ()):
    raise ValueError(
      f"{type(config).__name__} cannot be opened at another length: it has"
      " neither a field length nor a method at_length"
    )
  return dataclasses.replace(config, length=length)


# Most examples that a digest reads.
_SPREAD = 1024


def digest(dataset: Dataset) -> str:
  """Returns a hash of a data set, in hexadecimal.

  If the data set has a method `digest`, this is its result. Otherwise it is a
  hash of the number of examples, the size of the vocabulary, and all examples,
  or 1,024 of them at even distances if there are more.

  Args:
    dataset: the data.
  """
  own = getattr(dataset, "digest", None)
  return str(own()) if own is not None else digest_of_examples(dataset)


def digest_of_examples(dataset: Dataset, *more: object) -> str:
  """Returns the `digest` of data that have no such method.

  Args:
    dataset: the data.
    *more: further values to hash, representable as JSON.
  """
  size = len(dataset)
  vocab_size = getattr(dataset, "vocab_size", None)
  content = hashlib.blake2b(digest_size=16)
  content.update(json.dumps([size, vocab_size, *more]).encode())
  count = min(size, _SPREAD)
  for place in range(count):
    row = dataset[place * (size - 1) // max(count - 1, 1)]
    for name, leaf in sorted(arrays_by_path(row).items()):
      array = np.asarray(leaf)
      content.update(f"{name} {array.dtype} {array.shape} ".encode())
      content.update(array.tobytes())
  return content.hexdigest()


def example(dataset: Dataset, index: SupportsIndex) -> Example:
  """Returns an example; one without "weights" gets a weight of 1."""
  found = dataset[index]
  return (
    found
    if "weights" in found
    else {**found, "weights": np.ones((), np.float32)}
  )


def content_bytes(dataset: Any, indices: np.ndarray) -> int | None:
  """Returns how many bytes the predictions of some examples stand for.

  Args:
    dataset: the data.
    indices: numbers of examples, int64, without repetition.

  Returns:
    The number of bytes; None if the data are not text.
  """
  read: Any = getattr(dataset, "content", None)
  count: Any = getattr(dataset, "content_bytes", None)
  if count is None and read is None:
    return None

  def size(run: np.ndarray) -> int:
    edges = int(run[0]), int(run[-1]) + 1
    return count(*edges) if count is not None else len(read(*edges))

  ordered = np.sort(indices)
  runs = np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1)
  return sum(size(run) for run in runs if run.size)


def sequence_arrays(dataset: Dataset, first: Example) -> tuple[str, ...]:
  """Returns the paths of the arrays whose first axis is the sequence.

  A data set may say them in its attribute `sequence`, see
  `train.losses.base.is_sequence`; () if there is no sequence. Otherwise they
  are the arrays as long as "inputs", or as the first array in them.

  Args:
    dataset: the data.
    first: one of its examples.
  """
  own = getattr(dataset, "sequence", None)
  if own is not None:
    return tuple(own)
  shapes = {name: np.shape(x) for name, x in arrays_by_path(first).items()}
  inputs = (x for name, x in shapes.items() if name.split("/")[0] == "inputs")
  length = next(inputs, ())[:1]
  return tuple(name for name, x in shapes.items() if length and x[:1] == length)


def sequence_length(dataset: Dataset, first: Example) -> int:
  """Returns L, the length of the sequences; 1 if there are none.

  Args:
    dataset: the data.
    first: one of its examples.
  """
  return length_of(first, sequence_arrays(dataset, first))


def length_of(first: Example, sequence: Iterable[str]) -> int:
  """Returns L of an example; 1 if there are no sequences.

  Args:
    first: the example, or its shapes.
    sequence: of `sequence_arrays`.
  """
  for name in sequence:
    for path, x in arrays_by_path(first).items():
      if f"{path}/".startswith(f"{name}/"):
        return int(x.shape[0])
  return 1


def arrays_by_path(example: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arrays of an example or a batch by path.

  The path of an array inside of a dictionary or tuple is made of names joined
  by slashes, such as "inputs/tokens" or "inputs/0".
  """
  # JAX takes a while to import, and train.data.tokenize does not need it.
  import jax

  return {
    "/".join([name, jax.tree_util.keystr(keys, simple=True, separator="/")])
    if keys
    else name: leaf
    for name, value in example.items()
    for keys, leaf in jax.tree.leaves_with_path(value)
  }


def check_split(split: str) -> None:
  """Raises a `ValueError` unless `split` is one of `SPLITS`."""
  if split not in SPLITS:
    raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def check_index(index: SupportsIndex, size: int) -> int:
  """Returns `index` as an int in `[0, size)`, or raises an `IndexError`."""
  number = operator.index(index)
  if not 0 <= number < size:
    raise IndexError(
      f"there is no example {number} in a data set of {size} examples"
    )
  return number


def check_at_least(least: int, **settings: int) -> None:
  """Raises a `ValueError` that names the first setting below `least`."""
  for name, value in settings.items():
    if value < least:
      raise ValueError(f"{name} must be at least {least}, got {value}")


def pad(example: Example, length: int, token: int) -> Example:
  """Pads the end of an example of n <= `length` tokens.

  Args:
    example: arrays [n], with n >= 1.
    length: the length L to pad to.
    token: the input token to pad with.

  Returns:
    Arrays [L]. The padding has weight 0 and a segment id of its own.
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


class ByteCodec:
  """Bytes as tokens; a separator begins every document."""

  def encode(self, content: bytes) -> list[int]:
    """Returns the separator, then the bytes."""
    return [SEPARATOR, *content]

  def decode(self, tokens: Iterable[int]) -> bytes:
    """Returns the bytes of the tokens, without separators."""
    return bytes(int(token) for token in tokens if token != SEPARATOR)


class NumberCodec:
  """Writes tokens as decimal numbers, each followed by a space.

  Args:
    vocab_size: upper limit of the numbers, exclusive.
    start: the token that begins every document, which is not written; None if
      there is none.
  """

  def __init__(self, vocab_size: int, start: int | None = None):
    self._vocab_size = vocab_size
    self._start = start

  def encode(self, content: bytes) -> list[int]:
    """Reads numbers separated by white space.

    Args:
      content: the numbers, such as `b"3 14 15"`.

    Returns:
      The start token, if any, then the tokens, such as `[3, 14, 15]`.

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
