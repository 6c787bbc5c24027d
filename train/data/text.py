"""Language modelling on local text files: bytes, or tokens of a tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

from train.data import corpus, encoded_text, tokenizer
from train.data.dataset import (
  SEPARATOR,
  ByteCodec,
  Example,
  check_at_least,
  check_index,
  check_split,
  pad,
)


@dataclasses.dataclass(frozen=True)
class Text:
  """Text files as rows of bytes or tokens, packed with segment ids.

  Each document is a separator token followed by the document's bytes. All
  documents are concatenated, then cut into rows. Tokens 0 to 255 are the bytes,
  and token 256 is the separator, so the vocabulary has 257 tokens: a model
  needs an input to predict a document's first byte, and text may use every
  byte. Predicting the separator has weight 0. Every byte is therefore predicted
  exactly once and nothing else counts, so the mean loss is in bits (or nats)
  per byte and can be compared with `gzip` on the same bytes.

  Attributes:
    length: tokens per row, L.
    path: a folder or a file; "" for the sources of Python's standard library,
      without its tests. If it is a single file, its tail is held out.
    pattern: the file names to read, such as "*.txt".
    held_out: the fraction of the files to hold out for validation; their names
      decide which, see `train.data.corpus.divide`.
    held_out_bytes: the largest number of bytes to hold out.
    tokenizer: a `tokenizer.json` of the library `tokenizers`, or a folder that
      has one, such as a checkpoint in the Hugging Face layout; "" for bytes.
      With it, a row has `length` tokens of this tokenizer, and all tokens of
      the corpus are in memory. `python -m train.data.tokenize` writes those of
      a larger corpus to disk.
    separator: the token that begins each document; see
      `train.data.tokenizer.load`.
  """

  length: int = 512
  path: str = ""
  pattern: str = "*"
  held_out: float = 0.05
  held_out_bytes: int = 1_000_000
  tokenizer: str = ""
  separator: str = ""

  def open(self, split: str) -> Any:
    """Reads the documents of a split into memory.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: for a setting out of range, or if there is no text.
    """
    check_split(split)
    check_at_least(1, length=self.length, held_out_bytes=self.held_out_bytes)
    if not 0 < self.held_out < 1:
      raise ValueError(
        f"held_out must be between 0 and 1, got {self.held_out}: it is the"
        " fraction of the files to hold out"
      )
    documents = corpus.find_documents(self.path, self.pattern)
    splits = corpus.divide(documents, self.held_out, self.held_out_bytes)
    own = splits[split]
    names = [document.name for document in own]
    if not self.tokenizer:
      contents = (document.read() for document in own)
      return PackedBytes(contents, self.length, names=names)
    texts = (
      document.read()
      if document in documents
      else encoded_text.whole_characters(document.read())
      for document in own
    )
    return encoded_text.open_documents(texts, names, self.codec(), self.length)

  def codec(self, vocab_size: int | None = None) -> Any:
    """Returns the codec between text and tokens; opens no documents."""
    if not self.tokenizer and not self.separator:
      return ByteCodec()
    return tokenizer.load(self.tokenizer, self.separator)


class PackedBytes(ByteCodec):
  """Documents concatenated and cut into rows; see `Text`."""

  vocab_size = 257
  # A row is read in microseconds: less than handing it to a thread takes.
  threads = 0

  def __init__(
    self,
    documents: Iterable[bytes],
    length: int,
    names: Sequence[str] = (),
  ):
    """Concatenates the documents.

    Args:
      documents: the bytes of at least one document; none is empty.
      length: tokens per row, L.
      names: the documents' names, for `digest`.
    """
    # One byte per token, so that a large corpus takes no more memory than its
    # size. Zeros stand for separators; `_starts` holds their positions.
    stream = bytearray()
    starts = []
    for content in documents:
      starts.append(len(stream))
      stream.append(0)
      stream += content
    self._stream = np.frombuffer(stream, np.uint8)
    self._starts = np.array(starts, np.int64)
    self._length = length
    self._names = tuple(names)

  def __len__(self) -> int:
    # The first token, a separator, is never a target.
    return -(-(len(self._stream) - 1) // self._length)

  def __getitem__(self, index: SupportsIndex) -> Example:
    begin = check_index(index, len(self)) * self._length
    # One token more than the row, for the last target.
    tokens = self._stream[begin : begin + self._length + 1].astype(np.int32)
    some = np.searchsorted(self._starts, (begin, begin + len(tokens)))
    tokens[self._starts[slice(*some)] - begin] = SEPARATOR
    inputs, targets = tokens[:-1], tokens[1:]
    opens = inputs == SEPARATOR
    row = {
      "inputs": inputs,
      "targets": targets,
      "weights": (targets != SEPARATOR).astype(np.float32),
      "segment_ids": np.cumsum(opens, dtype=np.int32) - np.int32(opens[0]),
    }
    return pad(row, self._length, SEPARATOR)

  def digest(self) -> str:
    """Returns a hash of all names, bytes and their order, in hexadecimal."""
    content = hashlib.blake2b(digest_size=16)
    # Lengths and starts are hashed first. Otherwise a byte that moves from one
    # document to the next would not change the hash.
    content.update(repr((self._length, self._names)).encode(errors="replace"))
    content.update(self._starts.astype("<i8").tobytes())
    content.update(self._stream.data)
    return content.hexdigest()

  def content(self, start: int, stop: int) -> bytes:
    """Returns the bytes that rows `[start, stop)` predict."""
    # The first token of a row is predicted by the row before it.
    begin, end = (row * self._length + 1 for row in (start, stop))
    first, last = np.searchsorted(self._starts, (begin, end))
    separators = self._starts[first:last] - begin
    return np.delete(self._stream[begin:end], separators).tobytes()
