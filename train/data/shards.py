"""Tokens on disk: one long sequence over several memory-mapped files.

A folder made by `python -m train.data.tokenize` has

  index.json           dtype, vocabulary, separator, tokenizer, and each shard's
                       tokens, documents and digest
  shard-00000.bin      tokens, little-endian uint16 or uint32
  shard-00000.starts   where its documents begin, little-endian int64
  shard-00000.excess   tokens that stand for another number of bytes than the
                       vocabulary says, as pairs of little-endian int64: the
                       index of a token, and how many bytes more; the file is
                       missing if there are no such tokens
  vocabulary.json      the bytes of every token, in Latin-1
  tokenizer.json       a copy of the tokenizer's file; none for bytes

A document is the separator and its tokens. No document lies in two shards.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.errors import one_line

INDEX = "index.json"
VOCABULARY = "vocabulary.json"
# In a folder whose index is still to be written.
PLAN = "plan.json"
DTYPES = ("uint16", "uint32")
# Tokens looked at at a time where all are searched.
_PIECE = 1 << 22


@dataclasses.dataclass(frozen=True)
class Index:
  """What `index.json` says.

  Attributes:
    dtype: "uint16" or "uint32".
    vocab_size: Tokens are in `[0, vocab_size)`.
    separator: The token that begins each document.
    separator_name: What the tokenizer calls it, or its number; "" for a new
      one.
    tokenizer: The tokenizer's identity.
    source: A digest of the list of files and of the settings.
    shards: For each shard "tokens", "documents", "digest" and "corrections",
      the number of pairs in its `.excess`, which earlier versions do not have.
    content_bytes: Bytes of all documents together.
  """

  dtype: str
  vocab_size: int
  separator: int
  separator_name: str | int
  tokenizer: str
  source: str
  shards: Sequence[dict[str, Any]]
  content_bytes: int

  def to_json(self) -> bytes:
    """Returns the content of `index.json`."""
    return json.dumps(dataclasses.asdict(self), indent=1).encode()


def read_index(folder: str) -> Index:
  """Reads `index.json`.

  Raises:
    ValueError: It is not there, or not what `Index.to_json` writes.
  """
  path = os.path.join(folder, INDEX)
  try:
    with open(path, "rb") as file:
      index = Index(**json.load(file))
    known = index.dtype in DTYPES and index.vocab_size > index.separator >= 0
    total = sum(shard["tokens"] + shard["documents"] for shard in index.shards)
    if not known or not total:
      raise ValueError(f"dtype {index.dtype!r}, {total} tokens")
  except FileNotFoundError as error:
    raise ValueError(
      f"there is no {path}: run python -m train.data.tokenize --output"
      f" {folder} to its end, or name .bin or .npy files"
    ) from error
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise ValueError(
      f"{path} is not what train.data.tokenize writes"
      f" ({one_line(error, 200)}): tokenise again, into another folder"
    ) from error
  return index


def shard_path(folder: str, number: int, kind: str) -> str:
  """Returns the path of a shard's "bin" or "starts"."""
  return os.path.join(folder, f"shard-{number:05d}.{kind}")


class Content:
  """The text that the tokens of a stream stand for.

  Args:
    vocabulary: The bytes of every token.
    places: Indices of the tokens that stand for another number of bytes,
      increasing.
    excess: How many bytes more these tokens stand for; negative for fewer.
  """

  def __init__(
    self, vocabulary: Sequence[bytes], places: np.ndarray, excess: np.ndarray
  ):
    self._vocabulary = vocabulary
    self._sizes = np.array([len(piece) for piece in vocabulary], np.int64)
    self._places, self._excess = places, excess

  def decode(self, tokens: np.ndarray) -> bytes:
    """Returns the bytes of tokens, as the vocabulary has them."""
    return b"".join(map(self._vocabulary.__getitem__, tokens.tolist()))

  def sizes(self, begin: int, tokens: np.ndarray) -> np.ndarray:
    """Returns how many bytes each of some tokens stands for, int64.

    Args:
      begin: The place of the first token in the stream.
      tokens: The tokens from there on.
    """
    found = self._sizes[tokens]
    some = slice(*np.searchsorted(self._places, (begin, begin + len(tokens))))
    found[self._places[some] - begin] += self._excess[some]
    return found


def vocabulary_json(vocabulary: Sequence[bytes]) -> bytes:
  """Returns the content of `vocabulary.json`."""
  return json.dumps([piece.decode("latin-1") for piece in vocabulary]).encode()


def has_content(folder: str, index: Index) -> bool:
  """Whether a folder says which bytes its tokens stand for."""
  known = all("corrections" in shard for shard in index.shards)
  return known and os.path.exists(os.path.join(folder, VOCABULARY))


def open_content(folder: str, index: Index) -> Content:
  """Reads what the tokens of a folder stand for; see `has_content`.

  Raises:
    ValueError: A file is missing or damaged.
  """
  path = os.path.join(folder, VOCABULARY)
  try:
    with open(path, "rb") as file:
      vocabulary = [piece.encode("latin-1") for piece in json.load(file)]
    if len(vocabulary) != index.vocab_size:
      raise ValueError(f"{len(vocabulary)} tokens")
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} is not what train.data.tokenize writes"
      f" ({one_line(error, 200)}): tokenise again, into another folder"
    ) from error
  pairs, edge = [np.zeros((0, 2), np.int64)], 0
  for number, shard in enumerate(index.shards):
    if shard["corrections"]:
      path = shard_path(folder, number, "excess")
      found = open_bin(path, "int64", 2 * shard["corrections"])
      pairs.append(found.reshape(-1, 2) + np.array([edge, 0]))
    edge += shard["tokens"]
  places, excess = np.concatenate(pairs).T
  return Content(vocabulary, places, excess)


class Stream:
  """Arrays in one dimension, end to end, as if they were one.

  Args:
    arrays: Memory-mapped or not.
    starts: For each array where its documents begin; None where they are found
      by their separators.
    separator: The token that begins a document; None if there is none.
  """

  def __init__(
    self,
    arrays: Sequence[np.ndarray],
    starts: Sequence[np.ndarray] | None,
    separator: int | None,
  ):
    self._arrays = arrays
    self._starts = starts
    self.separator = separator
    sizes = [len(array) for array in arrays]
    self._edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

  def __len__(self) -> int:
    return int(self._edges[-1])

  def read(self, begin: int, stop: int) -> np.ndarray:
    """Returns tokens `[begin, stop)` as a new array, int64."""
    first = int(np.searchsorted(self._edges, begin, "right")) - 1
    parts = []
    while begin < stop:
      edge = int(self._edges[first])
      part = self._arrays[first][begin - edge : stop - edge]
      parts.append(part.astype(np.int64))
      begin += len(part)
      first += 1
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)

  def documents(self) -> np.ndarray:
    """Returns where all documents begin, int64, increasing.

    A stream without separators is one document. What comes before the first
    separator is a document too.
    """
    if self._starts is not None:
      parts = [
        np.asarray(starts, np.int64) + edge
        for starts, edge in zip(self._starts, self._edges, strict=False)
      ]
    elif self.separator is None:
      return np.zeros(1, np.int64)
    else:
      parts = [np.zeros(1, np.int64)]
      for begin in range(0, len(self), _PIECE):
        piece = self.read(begin, min(begin + _PIECE, len(self)))
        parts.append(np.flatnonzero(piece == self.separator) + begin)
      if len(self) and self.read(0, 1)[0] == self.separator:
        parts = parts[1:]
    return np.concatenate(parts)

  def first_document(self, least: int) -> int:
    """Returns the first place from `least` on where a document begins.

    Returns:
      The length of the stream if none does.
    """
    if self._starts is not None:
      for starts, edge in zip(self._starts, self._edges, strict=False):
        after = np.searchsorted(starts, least - edge)
        if after < len(starts):
          return int(starts[after] + edge)
      return len(self)
    if self.separator is not None:
      for begin in range(least, len(self), _PIECE):
        piece = self.read(begin, min(begin + _PIECE, len(self)))
        found = np.flatnonzero(piece == self.separator)
        if found.size:
          return begin + int(found[0])
    return len(self)


def open_shards(folder: str, index: Index) -> Stream:
  """Maps the shards of a folder into memory.

  Raises:
    ValueError: A shard is missing or cut short.
  """
  arrays, starts = [], []
  for number, shard in enumerate(index.shards):
    if shard["tokens"]:
      arrays.append(
        open_bin(
          shard_path(folder, number, "bin"), index.dtype, shard["tokens"]
        )
      )
      path = shard_path(folder, number, "starts")
      starts.append(open_bin(path, "int64", shard["documents"]))
  return Stream(arrays, starts, index.separator)


def open_bin(path: str, dtype: str, count: int | None = None) -> np.ndarray:
  """Maps a file of numbers into memory.

  Args:
    path: The file.
    dtype: Of the numbers, which are little-endian.
    count: How many there must be; None if the file says it by its size.

  Raises:
    ValueError: It is missing, empty, or has another size.
  """
  kind = np.dtype(dtype).newbyteorder("<")
  try:
    size = os.path.getsize(path)
    if count is not None and size != count * kind.itemsize:
      raise ValueError(
        f"{path} has {size} bytes, but its index says {count * kind.itemsize}:"
        " copy the folder again, or tokenise again into another folder"
      )
    if not size or size % kind.itemsize:
      raise ValueError(
        f"{path} has {size} bytes, which are no whole number of {dtype}:"
        " it is empty, cut short, or of another dtype"
      )
    return np.memmap(path, kind, "r")
  except OSError as error:
    raise ValueError(
      f"cannot read the tokens {path!r}: {error.strerror}"
    ) from error


def open_npy(path: str) -> np.ndarray:
  """Maps an `.npy` file of tokens into memory.

  Raises:
    ValueError: It is missing, or no array of integers in one dimension.
  """
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    reason = getattr(error, "strerror", None) or one_line(error, 200)
    raise ValueError(f"cannot read the tokens {path!r}: {reason}") from error
  if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
    raise ValueError(
      f"{path} holds {array.dtype} of shape {array.shape}, but tokens are"
      " integers in one dimension"
    )
  return array
