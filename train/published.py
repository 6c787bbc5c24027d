"""Reads a run, or a folder in the Hugging Face layout as if it were a run."""

import os
from collections.abc import Callable

import numpy as np

from jaxmodels import interop
from train import checkpoint
from train.checkpoint import Snapshot
from train.config import Config, serialize
from train.data import Arrays, Text
from train.data.text import PackedBytes
from train.data.tokenizer import FILE_NAME
from train.errors import UserError, described


def load(workdir: str, which: str, log: Callable[[str], None]) -> Snapshot:
  """Reads the checkpoint of a run, or a folder in the Hugging Face layout.

  Such a folder becomes a checkpoint of step 0, whose data are text with the
  folder's tokenizer. Without a `tokenizer.json`, they are bytes if the model
  has the vocabulary of bytes, and otherwise numbers.

  Args:
    workdir: The directory.
    which: As for `train.checkpoint.load`.
    log: As for `train.checkpoint.load`.

  Raises:
    UserError: There is neither, or it cannot be read.
  """
  if not is_published(workdir):
    return checkpoint.load(workdir, which, log)
  if which not in ("latest", "0"):
    raise UserError(
      f"{workdir} is a checkpoint in the Hugging Face layout, which has no step"
      f" {which}: leave the step out"
    )
  try:
    model, variables = interop.load(workdir)
  # The folder may hold anything.
  except Exception as error:
    raise UserError(described(error)) from error
  config = Config(model, _data(workdir, model.vocab_size))
  none = np.zeros((), bool)
  state = {"step": np.int32(0), "rng": none, "stopped": none, **variables}
  return Snapshot(0, state, 0, serialize.to_json(config), {}, False)


def is_published(workdir: str) -> bool:
  """Whether a directory is a checkpoint in the Hugging Face layout."""
  names = ("model.safetensors", "model.safetensors.index.json")
  return any(os.path.exists(os.path.join(workdir, name)) for name in names)


def _data(workdir: str, vocab_size: int) -> Text | Arrays:
  if os.path.isfile(os.path.join(workdir, FILE_NAME)):
    return Text(tokenizer=workdir)
  if vocab_size == PackedBytes.vocab_size:
    return Text()
  return Arrays(vocab_size=vocab_size)
