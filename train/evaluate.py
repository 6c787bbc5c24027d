"""Validation, in the loop and as `python -m train.evaluate WORKDIR`.

  python -m train.evaluate runs/text --lengths 64 256 1024

evaluates a checkpoint at several lengths, and prints one row per data set,
split and length, then the metrics by position. `--data.NAME.FIELD VALUE` adds a
data set: the run's own with other fields, such as `--data.news.path news/`, or
that of a config file, `--data.recall configs/mqar.py`. Every number goes to
`evaluation.json` in the run's directory. Nothing is downloaded.

`--trust` works as in `train.generate`.
"""

import dataclasses
import functools
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from train import checkpoint, flags
from train.command import main_with_errors, warn
from train.config import MOST, Config, command_line, modules, saved, trust
from train.data import Batches, Dataset
from train.data.batches import stack
from train.data.dataset import (
  at_length,
  content_bytes,
  example,
  sequence_arrays,
  sequence_length,
)
from train.data.order import order_of
from train.data.prefetch import ReadAhead
from train.devices import processes
from train.devices.strategy import Strategy, make_strategy
from train.errors import NonFiniteError, UserError, one_line
from train.evaluation_table import as_json, tables
from train.files import paths
from train.positions import ByPosition, add_up, bucket_sums, edges, separated
from train.setup import make_learner, open_split, read_only, saved_params
from train.state import TrainState
from train.step import Learner, eval_step
from train.streams import emit

FILE_NAME = "evaluation.json"


class Measured(NamedTuple):
  """What one evaluation found.

  Attributes:
    values: The metrics of the loss (see `Loss.means`), "bits_per_byte" if the
      data are text, and "tokens" (positions of the examples, each once).
    positions: The same metrics by position, `[L]`; None if the loss is not one
      per token.
    buckets: The same metrics in each bucket of `train.positions.edges`.
  """

  values: dict[str, float]
  positions: dict[str, np.ndarray] | None = None
  buckets: list[dict[str, float]] | None = None


def evaluate(
  strategy: Strategy,
  state: Any,
  dataset: Dataset,
  batch_size: int,
  batches: int | None = None,
) -> dict[str, float]:
  """Returns the `Measured.values` of `measure`."""
  return measure(strategy, state, dataset, batch_size, batches).values


def measure(
  strategy: Strategy,
  state: Any,
  dataset: Dataset,
  batch_size: int,
  batches: int | None = None,
) -> Measured:
  """Evaluates a state on a dataset, weighting every token by its weight.

  Args:
    strategy: Runs the model. With a loss `ByPosition`, the result has the
      metrics by position too.
    state: The state, on the strategy's devices.
    dataset: The examples, read in order.
    batch_size: Examples per batch. The last batch is padded with rows of
      weight 0.
    batches: How many batches to take; None for all.
  """
  stream = Batches(
    dataset,
    batch_size,
    seed=0,
    shuffle=False,
    rows=strategy.rows(batch_size),
    one_pass=True,
  )
  with ReadAhead(stream) as reader:
    parts = [
      strategy.evaluate(state, strategy.batch(batch))
      for batch in itertools.islice(reader, batches)
    ]
  # Each part is a float32 sum; many of them are added in float64.
  sums = {
    name: np.sum([p[name] for p in jax.device_get(parts)], 0, np.float64)
    for name in parts[0]
  }
  whole, per_position = separated(strategy.means(sums))
  # The padding rows of the last batch are not examples.
  examples = min(len(parts) * batch_size, len(dataset))
  length = sequence_length(dataset, example(dataset, 0))
  values = _with_bytes(dataset, examples, whole)
  values["tokens"] = float(examples * length)
  if not per_position or not add_up(sums):
    return Measured(values)
  return Measured(values, per_position, _in_buckets(strategy, sums, length))


def _with_bytes(
  dataset: Dataset, examples: int, metrics: Mapping[str, Any]
) -> dict[str, float]:
  """Adds "bits_per_byte", exact for these examples, where they are text."""
  values = {name: float(value) for name, value in metrics.items()}
  if "bits_per_token" not in values:
    return values
  size = content_bytes(dataset, order_of(dataset, None)(np.arange(examples)))
  if size:
    bits = values["bits_per_token"] * values["targets"]
    values["bits_per_byte"] = bits / size
  return values


def _in_buckets(
  strategy: Strategy, sums: Mapping[str, Any], length: int
) -> list[dict[str, float]]:
  """Metrics of each bucket of positions."""
  _, per_position = separated(sums)
  return [
    {name: float(value) for name, value in strategy.means(part).items()}
    for part in bucket_sums(per_position, edges(length))
  ]


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    workdir: Directory of the run; the first word may be it, without the flag.
    step: latest, best, or the number of a step.
    batches: How many batches to take; None for the whole split.
    split: The splits to evaluate, validation or train, of every data set.
    lengths: Tokens per sequence, one evaluation each; () for the length of the
      data's settings.
    own: Whether the run's own data are evaluated, beside those of --data.NAME.
    json: File of the results; None for evaluation.json in the run's directory.
    trust: A module whose code the saved config may use: a dotted name, or the
      path of a Python file such as the config.
  """

  workdir: str | None = None
  step: str = "latest"
  batches: int | None = None
  split: tuple[str, ...] = ("validation",)
  lengths: tuple[int, ...] = ()
  own: bool = True
  json: str | None = None
  trust: flags.Repeated = ()


@dataclasses.dataclass(frozen=True)
class _More:
  """Flags of data sets: `--data.NAME FILE`, `--data.NAME.FIELD VALUE`.

  Attributes:
    data: By name: a config file; or the settings of a data set.
  """

  data: Mapping[str, Any]


class _Case(NamedTuple):
  """One row of the table.

  Attributes:
    name: Of the data set.
    split: Of its splits.
    length: L of the examples.
    dataset: The examples.
    learner: Model and loss; the loss is `ByPosition` where it can be.
  """

  name: str
  split: str
  length: int
  dataset: Dataset
  learner: Learner


# The name of the run's own data.
_OWN = "run"
_USAGE = "python -m train.evaluate WORKDIR [--FLAG VALUE ...]"
_ABOUT = """Evaluates a checkpoint at any lengths, on several data sets.
Another data set: --data.NAME.FIELD VALUE is the run's own with another field,
and --data.NAME configs/NAME.py is that of a config file."""


def _divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Divides words into those of `Options` and those of data sets."""
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


def _more_data(config: Config, argv: Sequence[str]) -> dict[str, Any]:
  """Returns the settings of other data sets by name.

  Args:
    config: The run's.
    argv: Words after `--data.NAME` or `--data.NAME.FIELD`.

  Raises:
    UserError: A name, a field or a value is wrong.
  """
  keys = [word.split("=")[0].split(".") for word in argv if word[:2] == "--"]
  names = dict.fromkeys(key[1] for key in keys)
  for name in names:
    if not name.isidentifier() or name == _OWN:
      raise UserError(
        f"--data.{one_line(name, 80)} is no name of a data set: it must be a"
        f" word of letters and digits other than {_OWN}"
      )
  given, rest = flags.take(_More(dict.fromkeys(names)), argv)
  found = {
    name: config.data if path is None else command_line.load(str(path)).data
    for name, path in given.data.items()
  }
  (more,), stray = flags.parse(
    (_More(found),), rest, usage=_USAGE, about=_ABOUT
  )
  flags.refuse(stray)
  return dict(more.data)


def _opened(name: str, data: Any, split: str, length: int | None) -> Dataset:
  """Opens a split, at another length if one is given."""
  flag = "config.data" if name == _OWN else f"--data.{name}"
  try:
    if length is not None:
      data = at_length(data, length)
    return open_split(read_only(data), split)
  except ValueError as error:
    raise UserError(f"{flag}: {one_line(error)}") from error
  except UserError as error:
    text = one_line(error).replace("config.data", flag, 1)
    raise UserError(text) from error


def _case(
  config: Config, state: TrainState, name: str, split: str, dataset: Dataset
) -> _Case:
  """Checks that the model can read a data set, without running it.

  Raises:
    UserError: It cannot.
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
  sequence = sequence_arrays(dataset, first)
  learner = make_learner(config)._replace(sequence=sequence)
  batch = stack([first])
  arguments = (state.params, state.variables, batch)
  if config.loss.per_token and sequence:
    more = learner._replace(loss=ByPosition(config.loss))
    try:
      jax.eval_shape(functools.partial(eval_step, more), *arguments)
      return _Case(name, split, length, dataset, more)
    # A user's loss may fail in any way; it then has no metrics by position.
    except Exception:
      pass
  try:
    jax.eval_shape(functools.partial(eval_step, learner), *arguments)
  except ValueError as error:
    raise UserError(
      f"the model cannot read the data {name} at length {length}:"
      f" {one_line(error)}"
    ) from error
  return _Case(name, split, length, dataset, learner)


def _cases(
  config: Config, state: TrainState, options: Options, more: Mapping[str, Any]
) -> list[_Case]:
  """Opens all data sets at all lengths, and checks them."""
  data = {_OWN: config.data} if options.own or not more else {}
  lengths = dict.fromkeys(options.lengths) or [None]
  found = []
  for name, settings in {**data, **more}.items():
    for split in dict.fromkeys(options.split):
      for length in lengths:
        dataset = _opened(name, settings, split, length)
        case = _case(config, state, name, split, dataset)
        if length not in (None, case.length):
          raise UserError(
            f"the data {name} were opened at length {length}, but their"
            f" examples have {case.length} positions"
          )
        found.append(case)
  return found


def _trained_length(config: Config) -> int | None:
  """Tokens per training sequence; None where the data are not there."""
  try:
    dataset = open_split(read_only(config.data), "validation")
  except UserError:
    return None
  return sequence_length(dataset, example(dataset, 0))


def _measured(
  config: Config,
  state: TrainState,
  case: _Case,
  trained: int | None,
  batches: int | None,
) -> Measured:
  """Evaluates one case on one device."""
  size = config.batch_size
  if trained is not None and case.length > trained:
    # No more positions at a time than in training, for the memory.
    size = max(1, size * trained // case.length)
  strategy = make_strategy("jit", case.learner)
  return measure(
    strategy,
    strategy.prepare(state),
    case.dataset,
    # Rows beyond the number of examples would only be padding.
    min(size, len(case.dataset)),
    batches,
  )


def _write(options: Options, workdir: str, document: Any) -> None:
  """Writes the results; the default file may be in a read-only directory."""
  content = json.dumps(document, indent=1, allow_nan=False).encode()
  if options.json is not None:
    paths.write("--json", options.json, content)
    return
  try:
    # Somebody else may have made the run, with a link under this name.
    path = os.path.join(workdir, FILE_NAME)
    paths.write("--json", path, content, follow=False)
  except UserError as error:
    warn(f"warning: the results are not saved: {error}; give --json FILE")


def _run(argv: Sequence[str]) -> int:
  own, others = _divided(argv)
  options = flags.only(Options(), own, _USAGE, _ABOUT)
  flags.in_range("--batches", options.batches, 1, MOST)
  for length in options.lengths:
    flags.in_range("--lengths", length, 1, MOST)
  if options.json is not None:
    path = paths.check_output("--json", options.json)
    options = dataclasses.replace(options, json=path)
  workdir = paths.local("--workdir", options.workdir)
  # Reading a checkpoint without devices fails as if it were damaged.
  processes.start_jax()
  snapshot = checkpoint.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  more = _more_data(config, others)
  state = TrainState(
    step=snapshot.state["step"],
    params=saved_params(config, snapshot.state),
    variables=snapshot.state.get("variables", {}),
    opt_state=(),
    rng=snapshot.state["rng"],
    stopped=snapshot.state["stopped"],
  )
  with trust.explained(snapshot.config):
    cases = _cases(config, state, options, more)
    trained = _trained_length(config) if options.lengths or more else None
    rows = [
      as_json(
        case.name,
        case.split,
        case.length,
        _measured(config, state, case, trained, options.batches),
      )
      for case in cases
    ]
  emit(f"step {snapshot.step}")
  emit(tables(rows), end="")
  _write(
    options,
    workdir,
    {"step": snapshot.step, "trained_length": trained, "rows": rows},
  )
  for row in rows:
    if row["metrics"]["loss"] is None:
      raise NonFiniteError(
        f"the {row['split']} loss on the data {row['data']} at length"
        f" {row['length']} is not finite"
      )
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
