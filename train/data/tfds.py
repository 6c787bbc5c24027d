"""Data sets of tfds, by name, as rows of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import (
  Dataset,
  Example,
  NumberCodec,
  check_at_least,
  check_index,
  check_split,
  digest_of_examples,
  pad,
)


@dataclasses.dataclass(frozen=True)
class Tfds:
  """Any data set of tfds with a sequence of integers or an image in it.

  Read through its data source, by random access and without TensorFlow, so it
  has to be stored as ArrayRecord. Nothing is downloaded unless `download` says
  so.

  An example becomes one row: the integers in order, or the image's bytes row by
  row, pixel by pixel, channel by channel. The model reads a start token and
  then all tokens but the last, and predicts all of them; the start token is one
  more than the feature's tokens, so the vocabulary is one larger than
  `vocab_size`. What is longer than `length` is cropped at the end; what is
  shorter is padded, with weight 0 and as a segment of its own.

  Attributes:
    name: the data set, as tfds knows it: "mnist", "name/config", "name:1.*.*".
    length: tokens a row, L.
    feature: which feature to read; "" if only one will do.
    vocab_size: how many different tokens the feature holds; 0 if the feature
      itself says so: 256 for bytes and images, the number of classes for
      labels.
    train_split: the tfds split to train on, such as "train[:90%]".
    validation_split: the tfds split to hold out.
    data_dir: where tfds keeps its data sets; "" for its own default.
    download: whether to download and prepare what is not there.
  """

  name: str = ""
  length: int = 784
  feature: str = ""
  vocab_size: int = 0
  train_split: str = "train"
  validation_split: str = "test"
  data_dir: str = ""
  download: bool = False

  def open(self, split: str) -> Dataset:
    """Opens a split.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: if there is no such data set, split or feature, or it is not
        prepared, or not for random access; the message says what to do.
    """
    check_split(split)
    check_at_least(1, length=self.length)
    check_at_least(0, vocab_size=self.vocab_size)
    # tfds takes a moment to import; only who opens the data should pay for it.
    from train.data import tfds_reader

    source, feature, count = tfds_reader.read(self, split)
    sizes = tfds_reader.sizes(source)
    return NamedDataset(source, feature, count, self.length, sizes)

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns what reads and writes tokens as numbers.

    Args:
      vocab_size: of the opened data, if it is known; None if it is not.

    Returns:
      None if only the data know how many tokens there are.
    """
    if self.vocab_size:
      return NumberCodec(self.vocab_size, start=self.vocab_size)
    if vocab_size is None or vocab_size < 1:
      return None
    return NumberCodec(vocab_size - 1, start=vocab_size - 1)

  def read_only(self) -> Tfds:
    """Returns settings that download nothing.

    Raises:
      ValueError: if the name has a namespace ("space:name"), for which tfds
        downloads code and runs it.
    """
    before, colon, after = self.name.partition(":")
    if colon and not after[:1].isdigit() and after[:1] != "*":
      raise ValueError(
        f"the data set {self.name!r} is in the namespace {before!r}, whose code"
        " tfds would download and run: name the data in a config of your own"
      )
    return dataclasses.replace(self, download=False)


class NamedDataset:
  """Rows of one feature of a tfds data source; see `Tfds`."""

  def __init__(
    self,
    source: Sequence[dict[str, Any]],
    feature: str,
    count: int,
    length: int,
    sizes: Sequence[int] = (),
  ):
    """Wraps a source.

    Args:
      source: examples by number.
      feature: the name of the feature to read.
      count: how many different tokens there are; the start token comes after.
      length: tokens a row, L.
      sizes: bytes of the files behind it, for `digest`.
    """
    self._sizes = list(sizes)
    self._source = source
    self._feature = feature
    self._start = count
    self._length = length
    self.vocab_size = count + 1
    codec = NumberCodec(count, start=count)
    self.encode = codec.encode
    self.decode = codec.decode

  def __len__(self) -> int:
    return len(self._source)

  def digest(self) -> str:
    """Returns a number of some examples and of the sizes of all files.

    To read all of a large data set would take as long as an epoch.
    """
    return digest_of_examples(self, self._sizes)

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = check_index(index, len(self))
    tokens = np.asarray(self._source[number][self._feature]).reshape(-1)
    tokens = tokens[: self._length]
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < self._start:
      raise ValueError(
        f"example {number} has tokens from {tokens.min()} to {tokens.max()},"
        f" outside [0, {self._start}): set the data's vocab_size"
      )
    # An example without tokens is a start token that nothing follows.
    targets = tokens.astype(np.int32) if tokens.size else np.zeros(1, np.int32)
    row = {
      "inputs": np.concatenate([[self._start], targets[:-1]]).astype(np.int32),
      "targets": targets,
      "weights": np.full(len(targets), min(tokens.size, 1), np.float32),
      "segment_ids": np.zeros_like(targets),
    }
    return pad(row, self._length, self._start)
