"""Opens a config's data, with errors that name the config."""

from typing import Any

from train.data.dataset import Codec, Dataset
from train.errors import UserError, described, one_line


def open_split(data: Any, split: str) -> Dataset:
  """Opens a split of a config's data.

  Raises:
    UserError: It cannot be opened, or is empty.
  """
  try:
    dataset = data.open(split)
  # Data may be the user's own too; `~` without a home is a RuntimeError.
  except Exception as error:
    raise UserError(f"config.data: {described(error)}") from error
  if len(dataset) == 0:
    raise UserError(f"config.data: the {split} split has no examples")
  return dataset


def read_only(data: Any) -> Any:
  """Returns data that are opened without writing or downloading anything.

  Args:
    data: The data of a saved config.

  Raises:
    UserError: The data cannot be opened that way.
  """
  make = getattr(data, "read_only", None)
  try:
    return data if make is None else make()
  except ValueError as error:
    raise UserError(f"config.data: {one_line(error)}") from error


def open_codec(data: Any, vocab_size: object = None) -> Codec:
  """Returns the codec between text and tokens.

  Args:
    data: The data of a config. Data without a `codec` method are opened.
    vocab_size: Vocabulary size of the data set, if it is known.

  Raises:
    UserError: The data must be opened, and cannot be; or they are no text.
  """
  known = vocab_size if type(vocab_size) is int else None
  make = getattr(data, "codec", None)
  try:
    codec = None if make is None else make(known)
  except ValueError as error:
    raise UserError(f"config.data: {one_line(error)}") from error
  if codec is not None:
    return codec
  opened = open_split(read_only(data), "validation")
  if not hasattr(opened, "encode") or not hasattr(opened, "decode"):
    raise UserError(
      "config.data: the data have no methods encode and decode, so no text can"
      " be generated; set config.sample.length to 0"
    )
  return opened
