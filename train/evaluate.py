"""Validation, in the loop and as `python -m train.evaluate --workdir DIR`.

`--trust` works as in `train.generate`. The data are those of the run's config;
nothing is downloaded or written.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from train import checkpoint, flags
from train.command import main_with_errors, warn
from train.config import MOST, modules, saved, trust
from train.data import Batches, Dataset
from train.data.dataset import example, sequence_length
from train.data.prefetch import ReadAhead
from train.devices import processes
from train.devices.strategy import Strategy, make_strategy
from train.errors import NonFiniteError
from train.files import paths
from train.setup import make_learner, open_split, read_only, saved_params
from train.state import TrainState
from train.streams import emit


def evaluate(
  strategy: Strategy,
  state: Any,
  dataset: Dataset,
  batch_size: int,
  batches: int | None = None,
) -> dict[str, float]:
  """Evaluates a state on a dataset, weighting every token by its weight.

  Args:
    strategy: Runs the model.
    state: The state, on the strategy's devices.
    dataset: The examples, read in order.
    batch_size: Examples per batch. The last batch is padded with rows of
      weight 0.
    batches: How many batches to take; None for all.

  Returns:
    The metrics of the loss (see `Loss.means`), and "tokens" (positions of the
    examples, each once).
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
    name: np.sum([p[name] for p in jax.device_get(parts)], dtype=np.float64)
    for name in parts[0]
  }
  values = {name: float(value) for name, value in strategy.means(sums).items()}
  # The padding rows of the last batch are not examples.
  examples = min(len(parts) * batch_size, len(dataset))
  length = sequence_length(dataset, example(dataset, 0))
  return {**values, "tokens": float(examples * length)}


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    workdir: Directory of the run.
    step: latest, best, or the number of a step.
    batches: How many batches to take; None for the whole split.
    split: validation or train.
    trust: A module whose code the saved config may use: a dotted name, or the
      path of a Python file such as the config.
  """

  workdir: str | None = None
  step: str = "latest"
  batches: int | None = None
  split: str = "validation"
  trust: flags.Repeated = ()


def _run(argv: Sequence[str]) -> int:
  usage = "python -m train.evaluate --workdir DIR [--FLAG VALUE ...]"
  options = flags.only(Options(), argv, usage, "Validates a checkpoint.")
  flags.in_range("--batches", options.batches, 1, MOST)
  workdir = paths.local("--workdir", options.workdir)
  # Reading a checkpoint without devices fails as if it were damaged.
  processes.start_jax()
  snapshot = checkpoint.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  strategy = make_strategy("jit", make_learner(config))
  dataset = open_split(read_only(config.data), options.split)
  state = TrainState(
    step=snapshot.state["step"],
    params=saved_params(config, snapshot.state),
    variables=snapshot.state.get("variables", {}),
    opt_state=(),
    rng=snapshot.state["rng"],
    stopped=snapshot.state["stopped"],
  )
  with trust.explained(snapshot.config):
    values = evaluate(
      strategy,
      strategy.prepare(state),
      dataset,
      # Rows beyond the number of examples would only be padding.
      min(config.batch_size, len(dataset)),
      options.batches,
    )
  emit(f"step {snapshot.step}, {options.split}:")
  for name, value in values.items():
    emit(f"  {name:15} {value:.6g}")
  if not math.isfinite(values["loss"]):
    raise NonFiniteError(f"the {options.split} loss is {values['loss']}")
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
