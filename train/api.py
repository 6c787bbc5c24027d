"""The trainer for notebooks and scripts: `train.run` and `train.load`."""

import dataclasses
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

from flax import linen as nn

from train import checkpoint, loop, published
from train.config import Config, modules, saved
from train.config.start import resolved
from train.devices import processes
from train.saved_variables import saved_variables
from train.streams import warn

# Orbax warns about a file that checkpoints of this kind do not have.
logging.getLogger("absl").addFilter(
  lambda record: "_CHECKPOINT_METADATA" not in record.getMessage()
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A checkpoint of a run.

  Attributes:
    config: The run's config.
    step: Updates done.
    variables: What `model.apply` takes, as numpy arrays: the parameters for
      evaluation (averaged, if the optimizer averages them) and the model's
      other collections.
    state: The training state as saved, nested dictionaries of numpy arrays:
      "params", "opt_state" and others.
    metrics: Validation metrics of this state; empty if it was not evaluated.
  """

  config: Config
  step: int
  variables: Mapping[str, Any]
  state: Mapping[str, Any]
  metrics: Mapping[str, float]

  @property
  def model(self) -> nn.Module:
    """The model of the config."""
    return self.config.model


def run(config: Config, workdir: str | os.PathLike[str]) -> Run:
  """Trains a config, as `python -m train` does, and returns its last state.

  The same call again resumes the run, or returns at once if it is complete.
  Ctrl-C (in a notebook, "interrupt") saves the state and returns it; outside
  the main thread no signal is handled.

  Args:
    config: The run.
    workdir: The directory of the run; it is made if it is missing.

  Raises:
    UserError: The config is wrong, or not that of the run in `workdir`.
    RunError: The run failed; the same call repeats the failing step.
  """
  processes.start_jax()
  config = resolved(config)
  folder = os.fspath(workdir)
  result = loop.run(config, folder)
  snapshot = checkpoint.load(folder, str(result.step), warn)
  return _made(config, snapshot)


def load(
  workdir: str | os.PathLike[str],
  step: str | int = "latest",
  *,
  trust: Collection[str] = (),
) -> Run:
  """Reads a checkpoint; changes no files.

  Nothing in the directory runs code. Classes of your own in the saved config
  are found if your program has imported or defined them, or if `trust` names
  their module.

  Args:
    workdir: The directory of a run, or a checkpoint in the Hugging Face layout.
    step: "latest" (the latest readable one), "best", or a step.
    trust: Modules whose code the saved config may use: dotted names, or paths
      of Python files such as the config.

  Raises:
    UserError: The checkpoint does not exist, cannot be read, or needs code
      that is not trusted.
  """
  # Without devices, every checkpoint would look damaged.
  processes.start_jax()
  snapshot = published.load(os.fspath(workdir), str(step), warn)
  trusted = modules.import_trusted(tuple(trust))
  return _made(saved.read_config(snapshot.config, trusted), snapshot)


def _made(config: Config, snapshot: checkpoint.Snapshot) -> Run:
  state: Mapping[str, Any] = snapshot.state or {}
  return Run(
    config=config,
    step=snapshot.step,
    variables=saved_variables(config, state),
    state=state,
    metrics=snapshot.metrics,
  )
