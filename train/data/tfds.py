"""Data sets of TensorFlow Datasets (tfds) as rows of tokens."""

from __future__ import annotations

import dataclasses
import difflib
import os
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
  """A tfds data set that has an image or a sequence of integers.

  The data set is read by random access, without TensorFlow, so it must be
  stored as ArrayRecord. Nothing is downloaded unless `download` is true.

  An example becomes one row: the integers in order, or the image's bytes row by
  row, pixel by pixel, channel by channel. The model reads a start token, then
  all tokens but the last, and predicts all tokens. The start token comes after
  the feature's tokens, so the vocabulary is one larger than `vocab_size`.
  Examples longer than `length` are cropped at the end. Shorter examples are
  padded with weight 0, and the padding is a segment of its own.

  Attributes:
    name: the name of the data set in tfds: "mnist", "name/config",
      "name:1.*.*".
    length: tokens per row, L.
    feature: the feature to read; "" if only one is suitable.
    vocab_size: number of different tokens of the feature; 0 to take it from the
      feature: 256 for bytes and images, the number of classes for labels.
    train_split: the tfds split to train on, such as "train[:90%]".
    validation_split: the tfds split to hold out.
    data_dir: the folder of tfds's data sets; "" for the default of tfds.
    download: whether to download and prepare a data set that is missing.
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
      ValueError: if the data set, the split or the feature does not exist, or
        if the data set is not prepared for random access.
    """
    check_split(split)
    check_at_least(1, length=self.length)
    check_at_least(0, vocab_size=self.vocab_size)
    source, feature, count = _read(self, split)
    return NamedDataset(source, feature, count, self.length, _sizes(source))

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns the codec between tokens and decimal numbers.

    Args:
      vocab_size: that of the opened data; None if unknown.

    Returns:
      The codec; None if the number of tokens is unknown without the data.
    """
    if self.vocab_size:
      return NumberCodec(self.vocab_size, start=self.vocab_size)
    if vocab_size is None or vocab_size < 1:
      return None
    return NumberCodec(vocab_size - 1, start=vocab_size - 1)

  def read_only(self) -> Tfds:
    """Returns settings that download nothing.

    Raises:
      ValueError: if the name has a namespace ("space:name"): tfds would
        download its code and run it.
    """
    before, colon, after = self.name.partition(":")
    if colon and not after[:1].isdigit() and after[:1] != "*":
      raise ValueError(
        f"the data set {self.name!r} is in the namespace {before!r}, and tfds"
        " would download and run its code: if you trust it, use the data set in"
        " your own config"
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
      source: sequence of examples.
      feature: the name of the feature to read.
      count: number of different tokens; this is also the start token.
      length: tokens per row, L.
      sizes: bytes of each file of the source, for `digest`.
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
    """Returns a hash of some examples and of the sizes of all files.

    Reading all of a large data set would take as long as an epoch.
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
    # An example without tokens becomes a start token with weight 0.
    targets = tokens.astype(np.int32) if tokens.size else np.zeros(1, np.int32)
    row = {
      "inputs": np.concatenate([[self._start], targets[:-1]]).astype(np.int32),
      "targets": targets,
      "weights": np.full(len(targets), min(tokens.size, 1), np.float32),
      "segment_ids": np.zeros_like(targets),
    }
    return pad(row, self._length, self._start)


def _read(config: Tfds, split: str) -> tuple[Sequence[Any], str, int]:
  """Opens the data set of a config.

  Args:
    config: the data's settings.
    split: "train" or "validation".

  Returns:
    The sequence of examples, the name of the feature to read, and its number of
    different tokens.

  Raises:
    ValueError: if something is missing.
  """
  builder = _find(config)
  _prepare(builder, config)
  wanted = config.train_split if split == "train" else config.validation_split
  if wanted.partition("[")[0] not in builder.info.splits:
    raise ValueError(
      f"{config.name!r} has no split {wanted!r}: set {split}_split to one of"
      f" {', '.join(builder.info.splits)}, or to a part such as 'train[:90%]'"
    )
  feature, count = _choose(builder.info.features, config)
  try:
    source = builder.as_data_source(split=wanted)
  except NotImplementedError as error:
    raise ValueError(
      f"{config.name!r} in {builder.data_dir} is stored as"
      f" {builder.info.file_format.value}, which has no random access: prepare"
      " it again with download=True and another data_dir"
    ) from error
  return source, feature, count


def _sizes(source: Any) -> list[int]:
  """Returns the bytes of each file of a source from `_read`."""
  split = source.dataset_info.splits[source.split]
  return [os.path.getsize(path) for path in split.filepaths]


def _find(config: Tfds) -> Any:
  # tfds is slow to import, so we import it only to open the data.
  import tensorflow_datasets as tfds

  from train.data.guard import known_features

  try:
    with known_features():
      return tfds.builder(config.name, data_dir=config.data_dir or None)
  except tfds.core.DatasetNotFoundError as error:
    base = config.name.partition("/")[0].partition(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(base, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "check `name`"
    where = config.data_dir or "tfds's default folder"
    raise ValueError(
      f"there is no data set {config.name!r}, neither in tfds nor in {where}:"
      f" {hint}"
    ) from error


def _prepare(builder: Any, config: Tfds) -> None:
  if builder.data_path.exists():
    return
  if not config.download:
    raise ValueError(
      f"{config.name!r} is not prepared in {builder.data_dir}: set"
      " download=True to download it, or data_dir to where it is"
    )
  try:
    builder.download_and_prepare(file_format="array_record")
  except ImportError as error:
    # Preparing some data sets needs TensorFlow; reading prepared ones does not.
    # tfds puts the example into the message; its last line is the reason.
    reason = str(error).strip().splitlines()[-1]
    raise ValueError(
      f"preparing {config.name!r} needs TensorFlow or another package"
      f" ({reason}): prepare it elsewhere with file_format='array_record', and"
      " set data_dir to the result"
    ) from error


def _choose(features: Any, config: Tfds) -> tuple[str, int]:
  """Returns the name of a feature and its number of different tokens."""
  # Sorted, since the order of tfds depends on whether it has the data set's
  # code or only the files.
  features = dict(sorted(features.items()))
  counts = {name: _count(feature) for name, feature in features.items()}
  suitable = [name for name, count in counts.items() if count is not None]
  listed = ", ".join(
    f"{name} ({type(feature).__name__})" for name, feature in features.items()
  )
  if config.feature:
    suitable = [name for name in suitable if name == config.feature]
  if not suitable:
    which = f"feature {config.feature!r}" if config.feature else "feature"
    raise ValueError(
      f"{config.name!r} has no {which} that is a sequence of integers or an"
      f" image; it has: {listed}"
    )
  if len(suitable) > 1:
    raise ValueError(
      f"{config.name!r} has several suitable features: set `feature` to one of"
      f" {', '.join(suitable)}"
    )
  count = config.vocab_size or counts[suitable[0]]
  if not count:
    raise ValueError(
      f"feature {suitable[0]!r} of {config.name!r} does not declare its number"
      " of tokens: set vocab_size"
    )
  return suitable[0], count


def _count(feature: Any) -> int | None:
  """Counts a feature's different tokens.

  Args:
    feature: a tfds feature.

  Returns:
    The number; 0 if the feature does not declare it, None if the feature is
    neither an image nor a sequence of integers.
  """
  import tensorflow_datasets as tfds

  if isinstance(feature, tfds.features.Sequence):
    token = feature.feature
    suitable = isinstance(token, tfds.features.Tensor)
  else:
    token = feature
    arrays = tfds.features.Image, tfds.features.Tensor
    suitable = isinstance(feature, arrays) and bool(feature.shape)
  if not suitable or not np.issubdtype(token.np_dtype, np.integer):
    return None
  if isinstance(token, tfds.features.ClassLabel):
    return token.num_classes
  return 256 if token.np_dtype == np.uint8 else 0
