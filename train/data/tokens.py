"""Language modelling on tokens that are on disk, however many there are."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from train.data import packing, shards, tokenizer
from train.data.dataset import (
  Example,
  NumberCodec,
  check_at_least,
  check_index,
  check_split,
  digest_of_examples,
  pad,
)

PACKINGS = ("end_to_end", "best_fit")


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Tokenised documents on disk, memory-mapped, packed with segment ids.

  `path` is a folder of `python -m train.data.tokenize`, or `.bin` or `.npy`
  files of tokens that somebody else has made. A document begins with a
  separator token; predicting the separator has weight 0, as in `Text`.

  Packing "end_to_end" lays documents end to end and cuts the whole into rows.
  Packing "best_fit" puts whole documents into rows and pads the rest; only a
  document longer than a row is cut.

  Attributes:
    path: A folder of shards, a `.bin` or `.npy` file, or a folder of them.
    length: Tokens per row, L.
    packing: "end_to_end" or "best_fit".
    validation: Where the validation split is, as `path`; "" to hold out the
      last documents of `path`.
    held_out: The fraction of the tokens to hold out.
    held_out_tokens: The most tokens to hold out.
    tokenizer: The `tokenizer.json` that the tokens must be of; "" to take the
      folder's own word for it.
    dtype: Of `.bin` files: "uint16" or "uint32". Shards know theirs.
    vocab_size: Of `.bin` and `.npy` files. Shards know theirs.
    separator: The token that begins a document in `.bin` and `.npy` files, such
      as 50256 of GPT-2; -1 if there is none. Shards know theirs.
  """

  path: str = ""
  length: int = 512
  packing: str = "end_to_end"
  validation: str = ""
  held_out: float = 0.01
  held_out_tokens: int = 1_000_000
  tokenizer: str = ""
  dtype: str = "uint16"
  vocab_size: int = 0
  separator: int = -1

  def open(self, split: str) -> PackedTokens:
    """Maps the tokens of a split into memory.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: for a setting out of range, or a file that is missing, cut
        short, or not what the settings say.
    """
    check_split(split)
    _check(self)
    apart = bool(self.validation) and split == "validation"
    source = _open(self, self.validation if apart else self.path)
    if self.validation:
      begin, stop = 0, len(source.stream)
    else:
      edge = _edge(self, source.stream)
      whole = len(source.stream)
      begin, stop = (0, edge) if split == "train" else (edge, whole)
    return PackedTokens(source, begin, stop, self)

  def codec(self, vocab_size: int | None = None) -> Any:
    """Returns what turns content into tokens and back; maps no tokens."""
    if _is_shards(self.path):
      return _codec(self.path, shards.read_index(self.path))
    return NumberCodec(self.vocab_size) if self.vocab_size else None


@dataclasses.dataclass(frozen=True)
class Source:
  """Tokens that are opened.

  Attributes:
    stream: The tokens.
    vocab_size: Of the tokens.
    codec: Of the tokens.
    identity: What tells them from other tokens; None where nothing says it.
    sizes: Tokens of each file.
    content: Reads the text of the tokens; None if the folder does not have it.
  """

  stream: shards.Stream
  vocab_size: int
  codec: Any
  identity: str | None
  sizes: list[int]
  content: Callable[[], shards.Content] | None = None


def _check(config: Tokens) -> None:
  check_at_least(1, length=config.length)
  check_at_least(1, held_out_tokens=config.held_out_tokens)
  if not 0 < config.held_out < 1:
    raise ValueError(
      f"held_out must be between 0 and 1, got {config.held_out}: it is the"
      " fraction of the tokens to hold out"
    )
  for name, known in (("packing", PACKINGS), ("dtype", shards.DTYPES)):
    value = getattr(config, name)
    if value not in known:
      raise ValueError(f"{name} must be one of {known}, got {value!r}")


def _is_shards(path: str) -> bool:
  path = os.path.expanduser(path)
  return os.path.isdir(path) and not _files(path)


def _files(folder: str) -> list[str]:
  """Returns the `.bin` and `.npy` files of a folder that has no index."""
  names = sorted(os.listdir(folder))
  if shards.INDEX in names or shards.PLAN in names:
    return []
  found = [name for name in names if name.endswith((".bin", ".npy"))]
  return [os.path.join(folder, name) for name in found]


def _open(config: Tokens, path: str) -> Source:
  if not path:
    raise ValueError("path is empty: set it to a folder or a file of tokens")
  path = os.path.expanduser(path)
  if _is_shards(path):
    return _open_shards(config, path)
  found = _files(path) if os.path.isdir(path) else [path]
  check_at_least(-1, separator=config.separator)
  if config.vocab_size < 1 or config.separator >= config.vocab_size:
    raise ValueError(
      f"{path} does not say how many different tokens there are: set vocab_size"
      f" (got {config.vocab_size}), above separator (got {config.separator})"
    )
  if config.tokenizer:
    raise ValueError(
      f"{path} does not say which tokenizer made it: leave tokenizer empty, or"
      " tokenise by train.data.tokenize"
    )
  arrays = [
    shards.open_npy(file)
    if file.endswith(".npy")
    else shards.open_bin(file, config.dtype)
    for file in found
  ]
  separator = None if config.separator < 0 else config.separator
  return Source(
    shards.Stream(arrays, None, separator),
    config.vocab_size,
    NumberCodec(config.vocab_size, start=separator),
    None,
    [len(array) for array in arrays],
  )


def _open_shards(config: Tokens, path: str) -> Source:
  index = shards.read_index(path)
  if config.tokenizer:
    wanted = tokenizer.load(config.tokenizer, index.separator_name)
    if wanted.identity != index.tokenizer:
      raise ValueError(
        f"the tokens in {path} are of another tokenizer than"
        f" {config.tokenizer}: tokenise again, or correct `tokenizer`"
      )
  return Source(
    shards.open_shards(path, index),
    index.vocab_size,
    _codec(path, index),
    "".join(shard["digest"] for shard in index.shards),
    [shard["tokens"] for shard in index.shards],
    # The first validation reads the text, since generation does not need it.
    functools.cache(functools.partial(shards.open_content, path, index))
    if shards.has_content(path, index)
    else None,
  )


def _codec(path: str, index: shards.Index) -> Any:
  if index.tokenizer == tokenizer.BYTES:
    return tokenizer.Bytes()
  return _LaterCodec(path, index)


class _LaterCodec:
  """Loads the tokenizer of a folder when it is used: training needs none."""

  def __init__(self, folder: str, index: shards.Index):
    self._folder, self._index = os.path.expanduser(folder), index
    self._loaded: tokenizer.FileTokenizer | None = None

  def _load(self) -> tokenizer.FileTokenizer:
    if self._loaded is None:
      path = os.path.join(self._folder, tokenizer.FILE_NAME)
      found = tokenizer.FileTokenizer(path, self._index.separator_name)
      if found.identity != self._index.tokenizer:
        raise ValueError(
          f"{path} is not the tokenizer that made the tokens beside it: put the"
          " right file there, or tokenise again"
        )
      self._loaded = found
    return self._loaded

  def encode(self, content: bytes) -> list[int]:
    """Returns the separator and the tokens of a document."""
    return self._load().encode(content)

  def decode(self, tokens: Iterable[int]) -> bytes:
    """Returns the content of tokens."""
    return self._load().decode(tokens)


def _edge(config: Tokens, stream: shards.Stream) -> int:
  """Returns where the held-out tokens begin: at a document, if it can be."""
  size = len(stream)
  if size < 4:
    raise ValueError(
      f"{config.path} has {size} tokens: too few to hold out any"
    )
  least = size - min(
    max(round(size * config.held_out), 2), config.held_out_tokens
  )
  least = min(max(least, 2), size - 2)
  found = stream.first_document(least)
  # The last document is longer than what may be held out: it is cut.
  return found if found <= size - 2 else least


class PackedTokens:
  """Rows of tokens `[begin, stop)` of a stream; see `Tokens`."""

  def __init__(self, source: Source, begin: int, stop: int, config: Tokens):
    self._source = source
    self._begin, self._stop = begin, stop
    self._length = config.length
    self.vocab_size = source.vocab_size
    self.encode = source.codec.encode
    self.decode = source.codec.decode
    if source.content is not None:
      self.content = functools.partial(self._content, source.content)
      self.content_bytes = functools.partial(self._size, source.content)
    self._plan: packing.Plan | None = None
    if config.packing == "best_fit":
      starts = source.stream.documents()
      first, last = np.searchsorted(starts, (begin, stop))
      starts = starts[first:last]
      # A document that is cut begins before the split.
      if not len(starts) or starts[0] != begin:
        starts = np.concatenate([[begin], starts])
      self._plan = packing.best_fit(starts, stop, self._length)

  def __len__(self) -> int:
    if self._plan is not None:
      return len(self._plan)
    # The first token is never a target.
    return -(-(self._stop - self._begin - 1) // self._length)

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = check_index(index, len(self))
    pieces = self._pieces(number, number + 1)
    parts = [self._piece(begin, size) for begin, size in pieces]
    ids, later = [], 0
    for part in parts:
      ids.append(part["segment_ids"] + np.int32(later))
      later = int(ids[-1][-1]) + 1
    row = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    row["segment_ids"] = np.concatenate(ids)
    separator = self._source.stream.separator
    return pad(row, self._length, 0 if separator is None else separator)

  def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
    """Returns where rows `[start, stop)` begin to predict, and how many."""
    if self._plan is None:
      begin = self._begin + start * self._length
      size = (stop - start) * self._length
      return [(begin, min(size, self._stop - begin - 1))]
    some = slice(self._plan.rows[start], self._plan.rows[stop])
    begins, sizes = self._plan.begins[some], self._plan.sizes[some]
    return list(zip(begins.tolist(), sizes.tolist(), strict=True))

  def _predicted(
    self, start: int, stop: int
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the tokens that rows predict, with their place in the stream."""
    for begin, size in self._pieces(start, stop):
      tokens = self._source.stream.read(begin + 1, begin + size + 1)
      yield begin + 1, tokens

  def _content(
    self, content: Callable[[], shards.Content], start: int, stop: int
  ) -> bytes:
    """Returns the bytes that rows predict, as the vocabulary has them."""
    found = self._predicted(start, stop)
    return b"".join(content().decode(tokens) for _, tokens in found)

  def _size(
    self, content: Callable[[], shards.Content], start: int, stop: int
  ) -> int:
    """Returns how many bytes of the documents rows predict."""
    total = 0
    for begin, tokens in self._predicted(start, stop):
      # A separator inside of a text is not predicted either.
      counts = tokens != self._source.stream.separator
      total += int(content().sizes(begin, tokens)[counts].sum())
    return total

  def _piece(self, begin: int, size: int) -> Example:
    """Returns an example of `size` predictions, not padded."""
    found = self._source.stream.read(begin, begin + size + 1)
    if found.min() < 0 or found.max() >= self.vocab_size:
      raise ValueError(
        f"tokens {begin} to {begin + size} are from {found.min()} to"
        f" {found.max()}, outside [0, {self.vocab_size}): set the data's"
        " vocab_size, or its dtype"
      )
    tokens = found.astype(np.int32)
    inputs, targets = tokens[:-1], tokens[1:]
    separator = self._source.stream.separator
    if separator is None:
      weights, ids = np.ones(size, np.float32), np.zeros(size, np.int32)
    else:
      weights = (targets != separator).astype(np.float32)
      ids = np.cumsum(inputs == separator, dtype=np.int32)
      ids -= ids[0]
    return {
      "inputs": inputs,
      "targets": targets,
      "weights": weights,
      "segment_ids": ids,
    }

  def digest(self) -> str:
    """Returns a number, in hexadecimal, that other data do not have.

    Shards have digests of all their tokens. Of other files it is made of their
    sizes and of some rows.
    """
    settings = [self._begin, self._stop, self._length, self._plan is not None]
    identity = self._source.identity
    if identity is None:
      return digest_of_examples(self, *settings, *self._source.sizes)
    content = f"{settings} {identity}".encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
