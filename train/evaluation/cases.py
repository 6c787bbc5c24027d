"""The data sets that `train.evaluate` evaluates, opened and checked."""

import contextlib
import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.mixers.registry import UnknownNameError
from train import flags
from train.config import Config, command_line
from train.data import Dataset, baselines
from train.data.batches import stack
from train.data.dataset import (
  at_length,
  example,
  sequence_arrays,
  sequence_length,
)
from train.data.opening import open_split, read_only
from train.devices.strategy import Strategy, make_strategy
from train.errors import UserError, one_line
from train.evaluation.classes import ByClass
from train.evaluation.positions import ByPosition
from train.losses import Classification, Loss
from train.setup import make_learner
from train.state import TrainState

# The name of the run's own data.
OWN = "run"


@dataclasses.dataclass(frozen=True)
class _More:
  """Flags of data sets: `--data.NAME FILE`, `--data.NAME.FIELD VALUE`.

  Attributes:
    data: A config file, or the settings of a data set, by name.
  """

  data: Mapping[str, Any]


class Case(NamedTuple):
  """One row of the table.

  Attributes:
    name: The name of the data set.
    split: The split of the data set.
    length: L of the examples.
    dataset: The examples.
    batch_size: Examples per batch.
    strategy: Runs the model; the loss is `ByPosition` or
      `ByClass` where it can be.
    baselines: Scores of simple methods on the split.
  """

  name: str
  split: str
  length: int
  dataset: Dataset
  batch_size: int
  strategy: Strategy
  baselines: Mapping[str, float] = types.MappingProxyType({})


def divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Divides the command line into flags of `Options` and of data sets."""
  own: list[str] = []
  more: list[str] = []
  words = own
  for number, word in enumerate(argv):
    if word.startswith("-"):
      words = more if word.startswith("--data.") else own
    elif number == 0:
      word = f"--workdir={word}"
    words.append(word)
  return own, more


def more_data(config: Config, argv: Sequence[str]) -> dict[str, Any]:
  """Returns the settings of other data sets by name.

  Args:
    config: The run's config.
    argv: Flags `--data.NAME` and `--data.NAME.FIELD` with their values.

  Raises:
    UserError: A name, a field or a value is wrong.
  """
  keys = [word.split("=")[0].split(".") for word in argv if word[:2] == "--"]
  names = dict.fromkeys(key[1] for key in keys)
  for name in names:
    if not name.isidentifier() or name == OWN:
      raise UserError(
        f"--data.{one_line(name, 80)}: the name of a data set must be a word of"
        f" letters and digits other than {OWN}"
      )
  given, rest = flags.take(_More(dict.fromkeys(names)), argv)
  found = {
    name: config.data if path is None else command_line.load(str(path)).data
    for name, path in given.data.items()
  }
  (more,), stray = flags.parse((_More(found),), rest, usage="", about="")
  flags.refuse(stray)
  return dict(more.data)


def _opened(name: str, data: Any, split: str, length: int | None) -> Dataset:
  """Opens a split, at another length if one is given."""
  flag = "config.data" if name == OWN else f"--data.{name}"
  if length is not None:
    flag += f" with --lengths {length}"
  try:
    if length is not None:
      data = at_length(data, length)
    return open_split(read_only(data), split)
  except ValueError as error:
    raise UserError(f"{flag}: {one_line(error)}") from error
  except UserError as error:
    text = one_line(error).replace("config.data", flag, 1)
    raise UserError(text) from error


def make_case(
  config: Config,
  state: TrainState,
  name: str,
  split: str,
  dataset: Dataset,
  trained: int | None = None,
) -> Case:
  """Checks that the model can read a data set, without running it.

  Args:
    config: The run's config.
    state: The run's state, on the host.
    name: The name of the data set.
    split: The split of the data set.
    dataset: The examples.
    trained: Tokens per training sequence; longer sequences get smaller
      batches. None to leave the batch size as it is.

  Raises:
    UserError: The model cannot read the data set.
  """
  first = jax.tree.map(np.asarray, example(dataset, 0))
  length = sequence_length(dataset, first)
  size = getattr(config.model, "vocab_size", None)
  count = getattr(dataset, "vocab_size", None)
  if size is not None and count is not None and count > size:
    raise UserError(
      f"the data {name} have {count} different tokens, but the model knows"
      f" {size}: give data of the same tokenizer"
    )
  # Rows beyond the number of examples would only be padding.
  rows = min(config.batch_size, len(dataset))
  if trained is not None and length > trained:
    # A batch has no more positions than in training, so it fits the memory.
    rows = max(1, min(rows, config.batch_size * trained // length))
  sequence = sequence_arrays(dataset, first)
  learner = make_learner(config)._replace(sequence=sequence)
  batch = stack([first] * rows)

  def made(loss: Loss) -> Case:
    strategy = make_strategy("jit", learner._replace(loss=loss))
    strategy.evaluate.lower(state, batch)
    return Case(name, split, length, dataset, rows, strategy)

  if config.loss.per_token and sequence:
    # A user's loss may fail in any way; it then has no metrics by position.
    with contextlib.suppress(Exception):
      return made(ByPosition(config.loss))
  loss = config.loss
  try:
    return made(ByClass(loss) if isinstance(loss, Classification) else loss)
  # `train.config.trust` explains this error: it names the mixer's module.
  except UnknownNameError:
    raise
  except ValueError as error:
    raise UserError(
      f"the model cannot read the data {name} at length {length}:"
      f" {one_line(error)}"
    ) from error


def open_cases(
  config: Config,
  state: TrainState,
  data: Mapping[str, Any],
  splits: Sequence[str],
  lengths: Sequence[int],
) -> tuple[list[Case], int | None]:
  """Opens all data sets at all lengths, and checks them.

  Args:
    config: The run's config.
    state: The run's state, on the host.
    data: Settings of data sets by name.
    splits: The splits of each data set.
    lengths: Tokens per sequence; without any, the lengths of the settings.

  Returns:
    The cases, and the tokens per training sequence. The latter is None if only
    the run's own data are evaluated at their own length, or if the run's own
    data cannot be opened.

  Raises:
    UserError: Some data cannot be opened, or the model cannot read them.
  """
  is_own = not lengths and list(data) == [OWN]
  trained = None if is_own else trained_length(config)
  found = []
  for name, settings in data.items():
    for split in dict.fromkeys(splits):
      scores = None
      for length in dict.fromkeys(lengths) or [None]:
        dataset = _opened(name, settings, split, length)
        case = make_case(config, state, name, split, dataset, trained)
        if length not in (None, case.length):
          raise UserError(
            f"the data {name} were opened at length {length}, but their"
            f" examples have {case.length} positions"
          )
        # The text is the same at any length.
        if scores is None:
          scores = _baselines(name, settings, split, dataset)
        found.append(case._replace(baselines=scores))
  return found, trained


def _baselines(
  name: str, settings: Any, split: str, dataset: Dataset
) -> dict[str, float]:
  """Scores of simple methods, fitted to the training split of the same data."""
  if not hasattr(dataset, "content"):
    return {}
  is_train = split == "train"
  train = dataset if is_train else _opened(name, settings, "train", None)
  return baselines(train, dataset)


def trained_length(config: Config) -> int | None:
  """Tokens per training sequence; None if the data cannot be opened."""
  try:
    dataset = open_split(read_only(config.data), "validation")
  except UserError:
    return None
  return sequence_length(dataset, example(dataset, 0))
