"""What turns documents into tokens: bytes, or a file of `tokenizers`."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.data.dataset import ByteCodec
from train.errors import one_line

BYTES = "bytes"
# The name of a copy of the tokenizer's file, in a folder of shards.
FILE_NAME = "tokenizer.json"


class Encoded(NamedTuple):
  """A document as tokens, and where its bytes differ from the vocabulary's.

  A token stands for the bytes that the vocabulary gives it, except at `places`:
  there it stands for `excess` bytes more. A tokenizer that strips or
  changes text has such places. The bytes of all tokens of a document add up to
  those of its content.

  Attributes:
    tokens: The separator and the tokens, integers [n].
    places: Indices of tokens, increasing, int64.
    excess: How many bytes more than in the vocabulary; negative for fewer,
      int64.
  """

  tokens: np.ndarray
  places: np.ndarray = np.zeros(0, np.int64)
  excess: np.ndarray = np.zeros(0, np.int64)


class Tokenizer(Protocol):
  """A codec whose documents begin with a separator token.

  Attributes:
    identity: Equal for equal tokenizers: "bytes", or a digest of the file.
    separator: The token that begins each document.
    separator_name: What makes the same tokenizer of its file: see
      `FileTokenizer`.
    vocab_size: Tokens are in `[0, vocab_size)`, the separator included.
  """

  identity: str
  separator: int
  separator_name: str | int
  vocab_size: int

  def encode(self, content: bytes, /) -> list[int]:
    """Returns the separator and the tokens of a document.

    Raises:
      ValueError: The content is not text in UTF-8.
    """

  def encode_exactly(self, content: bytes, /) -> Encoded:
    """Returns what `encode` does, with the bytes of each token."""

  def vocabulary(self) -> list[bytes]:
    """Returns the bytes of every token; the separator has none."""

  def decode(self, tokens: Iterable[int], /) -> bytes:
    """Returns the content of tokens; separators are left out."""


class Bytes(ByteCodec):
  """Bytes as tokens 0 to 255, and the separator 256."""

  identity = BYTES
  separator = 256
  separator_name = ""
  vocab_size = 257

  def encode_exactly(self, content: bytes) -> Encoded:
    """Returns what `encode` does; every token stands for its own byte."""
    tokens = np.empty(len(content) + 1, np.uint16)
    tokens[0] = self.separator
    tokens[1:] = np.frombuffer(content, np.uint8)
    return Encoded(tokens)

  def vocabulary(self) -> list[bytes]:
    """Returns the bytes of every token; the separator has none."""
    return [*(bytes([byte]) for byte in range(256)), b""]


class FileTokenizer:
  """A `tokenizer.json` of the library `tokenizers`.

  The file itself names no token that begins a document, so the separator is
  the token that `separator` names, or a new one behind all others.

  Args:
    path: The file.
    separator: A token of the vocabulary, such as "<|endoftext|>", or its
      number; "" for a new one.

  Raises:
    ValueError: The file cannot be read, or has no such token, or the library
      is not installed.
  """

  def __init__(self, path: str, separator: str | int = ""):
    try:
      import tokenizers
    except ImportError as error:
      raise ValueError(
        f"{path} is read by the package tokenizers, which is not installed:"
        " pip install tokenizers"
      ) from error
    try:
      with open(os.path.expanduser(path), "rb") as file:
        content = file.read()
    except OSError as error:
      raise ValueError(f"cannot read {path!r}: {error.strerror}") from error
    try:
      self._inner = tokenizers.Tokenizer.from_str(content.decode())
      decoder = json.loads(content).get("decoder") or {}
    # The library raises bare exceptions.
    except Exception as error:
      raise ValueError(
        f"{path!r} is no tokenizer.json of the library tokenizers:"
        f" {one_line(error, 200)}"
      ) from error
    # The identity includes the separator: it is a token of every document.
    named = hashlib.blake2b(content, digest_size=16)
    named.update(str(separator).encode())
    self.identity = named.hexdigest()
    self.content = content
    # Ids may have gaps, so their number is not one more than the largest.
    largest = max(self._inner.get_vocab(with_added_tokens=True).values())
    self.separator_name = separator
    self.separator = self._separator(path, separator, largest)
    found = self.separator
    self.vocab_size = max(largest, found) + 1
    self._is_bytes = "ByteLevel" in json.dumps(decoder)

  def _separator(self, path: str, separator: str | int, largest: int) -> int:
    """The number of the separator."""
    if separator == "":
      return largest + 1
    if isinstance(separator, int):
      return separator
    found = self._inner.token_to_id(separator)
    if found is None:
      raise ValueError(
        f"{path!r} has no token {separator!r}: check --separator"
      )
    return found

  def encode(self, content: bytes) -> list[int]:
    """Returns the separator and the tokens of a document."""
    return [self.separator, *self._encode(_text(content)).ids]

  def _encode(self, text: str) -> Any:
    return self._inner.encode(text, add_special_tokens=False)

  def encode_exactly(self, content: bytes) -> Encoded:
    """Returns what `encode` does, with the bytes of each token.

    Where the vocabulary's bytes do not add up to the document's, a token stands
    for the text from the end of the token before it to its own end, and the
    last token also for the rest.
    """
    text = _text(content)
    found = self._encode(text)
    tokens = np.array([self.separator, *found.ids], np.int64)
    known = self._sizes[tokens]
    if len(tokens) == 1 or known.sum() == len(content):
      return Encoded(tokens)
    letters = np.array([len(letter.encode()) for letter in text], np.int64)
    at = np.concatenate([[0], np.cumsum(letters)])
    ends = at[np.array([end for _, end in found.offsets], np.int64)]
    ends = np.maximum.accumulate(ends)
    ends[-1] = len(content)
    excess = np.diff(ends, prepend=[0, 0]) - known
    places = np.flatnonzero(excess)
    return Encoded(tokens, places, excess[places])

  def vocabulary(self) -> list[bytes]:
    """Returns the bytes of every token; the separator has none."""
    return [self.decode([token]) for token in range(self.vocab_size)]

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    return np.array([len(piece) for piece in self.vocabulary()], np.int64)

  def decode(self, tokens: Iterable[int]) -> bytes:
    """Returns the content of tokens, one by one; separators leave nothing."""
    return b"".join(
      self._bytes(int(token)) for token in tokens if token != self.separator
    )

  def _bytes(self, token: int) -> bytes:
    piece = self._inner.id_to_token(token) or ""
    if self._is_bytes:
      # A token may be a part of a character, which only bytes can express.
      known = [_BYTE_OF.get(letter) for letter in piece]
      if None not in known:
        return bytes(known)  # type: ignore[arg-type]
    found = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    if found:
      return bytes([int(found[1], 16)])
    return piece.replace("▁", " ").encode()


def _separator_of(folder: str) -> str | int:
  """The number of the token that begins or ends a text; "" if none is known."""
  try:
    with open(os.path.join(folder, "config.json"), "rb") as file:
      config = json.load(file)
  except (OSError, ValueError):
    return ""
  for key in ("bos_token_id", "eos_token_id"):
    found = config.get(key) if isinstance(config, dict) else None
    # A model may end texts with several tokens.
    for number in found if isinstance(found, list) else [found]:
      if type(number) is int and number >= 0:
        return number
  return ""


def _text(content: bytes) -> str:
  try:
    return content.decode()
  except UnicodeDecodeError as error:
    raise ValueError(
      f"is not text in UTF-8 (byte {error.start}): convert it, or use bytes as"
      " tokens"
    ) from error


def _byte_of() -> dict[str, int]:
  """Returns the bytes that byte-level tokenizers write as letters.

  Printable bytes stand for themselves, the others for the letters from 256 on
  (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners";
  `bytes_to_unicode` of its code).
  """
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in plain]
  table = {chr(byte): byte for byte in plain}
  return table | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of()


def load(path: str, separator: str | int = "") -> Any:
  """Returns a tokenizer.

  Args:
    path: A `tokenizer.json`, or a folder that has one, such as a checkpoint in
      the Hugging Face layout; "" for bytes.
    separator: See `FileTokenizer`. In a folder, "" stands for the token that
      begins a text (or else ends it) by the folder's `config.json`.

  Raises:
    ValueError: See `FileTokenizer`; or bytes are given a separator.
  """
  if path:
    folder = os.path.expanduser(path)
    if not os.path.isdir(folder):
      return FileTokenizer(path, separator)
    file = os.path.join(folder, FILE_NAME)
    return FileTokenizer(file, separator or _separator_of(folder))
  if separator:
    raise ValueError(
      "bytes as tokens have their own separator, 256: leave out --separator,"
      " or give --tokenizer"
    )
  return Bytes()
