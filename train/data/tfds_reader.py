"""Finds a named data set of tfds and a feature of it that is tokens."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from train.data.guard import known_features
from train.data.tfds import Tfds


def read(config: Tfds, split: str) -> tuple[Sequence[Any], str, int]:
  """Opens what `config` names.

  Args:
    config: the data's settings.
    split: "train" or "validation".

  Returns:
    The examples by number, the name of the feature to read, and how many
    different tokens it holds.

  Raises:
    ValueError: saying what is missing and what to do.
  """
  builder = _find(config)
  _prepare(builder, config)
  wanted = config.train_split if split == "train" else config.validation_split
  if wanted.partition("[")[0] not in builder.info.splits:
    raise ValueError(
      f"{config.name!r} has no split {wanted!r}: set {split}_split to one of"
      f" {', '.join(builder.info.splits)}, or to a part, as 'train[:90%]'"
    )
  feature, count = _choose(builder.info.features, config)
  try:
    source = builder.as_data_source(split=wanted)
  except NotImplementedError as error:
    raise ValueError(
      f"{config.name!r} in {builder.data_dir} is stored as"
      f" {builder.info.file_format.value}, which has no random access: prepare"
      " it again, in another data_dir, with download=True"
    ) from error
  return source, feature, count


def sizes(source: Any) -> list[int]:
  """Returns the bytes of the files that a source of `read` is stored in."""
  split = source.dataset_info.splits[source.split]
  return [os.path.getsize(path) for path in split.filepaths]


def _find(config: Tfds) -> Any:
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
    # Some data sets are read with TensorFlow, and images given as arrays are
    # encoded with it. What is prepared is read without.
    # tfds joins the example to the message; only the last line is the reason.
    reason = str(error).strip().splitlines()[-1]
    raise ValueError(
      f"preparing {config.name!r} needs TensorFlow or another package"
      f" ({reason}): prepare it elsewhere, with file_format='array_record', and"
      " set data_dir to the result"
    ) from error


def _choose(features: Any, config: Tfds) -> tuple[str, int]:
  """Returns the name of a feature and how many different tokens it holds."""
  # Sorted: the order depends on whether tfds found the code or only the files.
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
      f"{config.name!r} has several features to read: set `feature` to one of"
      f" {', '.join(suitable)}"
    )
  count = config.vocab_size or counts[suitable[0]]
  if not count:
    raise ValueError(
      f"feature {suitable[0]!r} of {config.name!r} does not say how many tokens"
      " there are: set vocab_size"
    )
  return suitable[0], count


def _count(feature: Any) -> int | None:
  """Counts a feature's different tokens.

  Args:
    feature: a tfds feature.

  Returns:
    None if it is neither an image nor a sequence of integers, 0 if it does not
    say how many there are.
  """
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
