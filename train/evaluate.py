"""Validation, in the loop and as `python -m train.evaluate WORKDIR`.

  python -m train.evaluate runs/text --lengths 64 256 1024

evaluates a checkpoint at several lengths, and prints one row per data set,
split and length, then the metrics by position, or the accuracy by class.
`--data.news.path news/` adds a data set that is called "news": the run's own
data with another value of the field `path`. `--data.recall configs/mqar.py`
adds the data of a config file. Every number goes to `evaluation.json` in the
run's directory, with the confusion matrix of a classification. Nothing is
downloaded.

`--trust` works as in `train.generate`.
"""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from train import flags, published
from train.command import main_with_errors, warn
from train.config import MOST, Config, modules, saved, trust
from train.data import Batches, Dataset
from train.data.dataset import content_bytes, example, sequence_length
from train.data.order import order_of
from train.data.prefetch import ReadAhead
from train.devices import processes
from train.devices.strategy import Strategy
from train.errors import NonFiniteError, UserError
from train.evaluation.cases import OWN, Case, divided, more_data, open_cases
from train.evaluation.classes import CONFUSION
from train.evaluation.positions import add_up, bucket_sums, edges, separated
from train.evaluation.table import as_json, tables
from train.files import paths
from train.saved_variables import saved_params
from train.state import TrainState
from train.streams import emit

FILE_NAME = "evaluation.json"


class Measured(NamedTuple):
  """What one evaluation found.

  Attributes:
    values: The metrics of the loss (see `Loss.means`), "bits_per_byte" if the
      data are text, and "tokens" (the number of positions in the examples).
    positions: The same metrics by position, `[L]`; None if the loss is not one
      per token.
    buckets: The same metrics in each bucket of `edges`.
    confusion: The matrix [C, C] of `ByClass`; None if the loss has no classes.
  """

  values: dict[str, float]
  positions: dict[str, np.ndarray] | None = None
  buckets: list[dict[str, float]] | None = None
  confusion: np.ndarray | None = None


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
  means = strategy.means(sums)
  confusion = means.pop(CONFUSION, None)
  whole, per_position = separated(means)
  # The padding rows of the last batch are not examples.
  examples = min(len(parts) * batch_size, len(dataset))
  length = sequence_length(dataset, example(dataset, 0))
  values = _with_bytes(dataset, examples, whole)
  values["tokens"] = float(examples * length)
  if not per_position or not add_up(sums):
    return Measured(values, confusion=confusion)
  return Measured(values, per_position, _in_buckets(strategy, sums, length))


def _with_bytes(
  dataset: Dataset, examples: int, metrics: Mapping[str, Any]
) -> dict[str, float]:
  """Adds "bits_per_byte", exact for these examples, where they are text."""
  values = {name: float(value) for name, value in metrics.items()}
  if "bits_per_token" not in values:
    return values
  size = content_bytes(dataset, order_of(dataset, None)(np.arange(examples)))
  if not size:
    return values
  bits = values.pop("bits_per_token")
  per_byte = bits * values["targets"] / size
  loss = values.pop("loss")
  first = {"loss": loss, "bits_per_token": bits, "bits_per_byte": per_byte}
  return {**first, **values}


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
    workdir: Directory of the run, or a checkpoint in the Hugging Face layout;
      it may also be the first word, without --workdir.
    step: Which checkpoint: latest, best, or the number of a step.
    batches: How many batches to evaluate; None for the whole split.
    split: The splits to evaluate, validation or train, of every data set.
    lengths: Tokens per sequence, with one evaluation for each; without them,
      the length in the settings of the data.
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


_USAGE = "python -m train.evaluate WORKDIR [--FLAG VALUE ...]"
_ABOUT = """Evaluates a checkpoint at any lengths, on several data sets.
Two flags add a data set: --data.NAME.FIELD VALUE takes the run's own data with
another value of a field, and --data.NAME configs/NAME.py takes the data of a
config file. NAME is any word; it names the rows of the table."""


def _state(config: Config, saved: Mapping[str, Any]) -> TrainState:
  """The state of a checkpoint, with the parameters for evaluation alone."""
  return TrainState(
    step=saved["step"],
    params=saved_params(config, saved),
    variables=saved.get("variables", {}),
    opt_state=(),
    rng=saved["rng"],
    stopped=saved["stopped"],
  )


def _row(case: Case, state: TrainState, batches: int | None) -> dict[str, Any]:
  """Evaluates a case."""
  strategy = case.strategy
  prepared = strategy.prepare(state)
  found = measure(strategy, prepared, case.dataset, case.batch_size, batches)
  return as_json(case.name, case.split, case.length, found, case.baselines)


def _write(options: Options, workdir: str, document: Any) -> None:
  """Writes the results; the default file may be in a read-only directory."""
  content = json.dumps(document, indent=1, allow_nan=False).encode()
  if options.json is not None:
    paths.write("--json", options.json, content)
    return
  try:
    # Somebody else may have made the run and put a link under this name.
    path = os.path.join(workdir, FILE_NAME)
    paths.write("--json", path, content, follow=False)
  except UserError as error:
    warn(f"warning: the results are not saved: {error}; give --json FILE")


def _run(argv: Sequence[str]) -> int:
  own, others = divided(argv)
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
  snapshot = published.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  more = more_data(config, others)
  data = {OWN: config.data} if options.own or not more else {}
  state = _state(config, snapshot.state)
  with trust.explained(snapshot.config):
    cases, trained = open_cases(
      config, state, data | more, options.split, options.lengths
    )
    rows = [_row(case, state, options.batches) for case in cases]
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
