"""Messages about a step that fails, and the file that keeps its batch."""

import io
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from train import files
from train.config import Optimizer
from train.data.dataset import arrays_by_path
from train.data.prefetch import Placed


def non_finite(values: Mapping[str, float], optimizer: Any) -> str:
  """Says which numbers of a step are not finite, and what may be the cause.

  Args:
    values: The metrics of the step.
    optimizer: The optimizer of the config.
  """
  found = (
    f"loss {values['loss']}, gradient norm {values['grad_norm']}, update norm"
    f" {values['update_norm']}, parameter norm {values['param_norm']}"
  )
  if all(map(math.isfinite, values.values())):
    found += ", but something in the optimizer's state"
  elif math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
    found += _settings(optimizer)
  return found


def _settings(optimizer: Any) -> str:
  """Names the settings that most often make an update infinite."""
  if not isinstance(optimizer, Optimizer):
    return ""
  return (
    f" (config.optimizer.learning_rate is {optimizer.learning_rate},"
    f" weight_decay {optimizer.weight_decay})"
  )


def no_gradient(step: int, values: Mapping[str, float]) -> str:
  """Warns of a step whose gradient is 0 although its loss is not.

  Args:
    step: Number of updates after it.
    values: Its metrics.
  """
  return (
    f"warning: the gradient of step {step} is 0, with"
    f" {values['targets']:g} targets and a loss of {values['loss']:.4g}: the"
    " loss does not depend on the parameters; often a mixer overflows, such"
    " as by a log decay above 0 (jaxmodels.testing.check_mixer looks for it)"
  )


def save_batch(workdir: str, step: int, batch: Placed) -> str:
  """Writes the batch of a step that failed; returns the file.

  Args:
    workdir: The run's directory.
    step: Number of updates after the step.
    batch: Its batch.
  """
  name = f"failed-step-{step}"
  if jax.process_count() > 1:
    name += f"-process-{jax.process_index()}"
  path = os.path.join(workdir, f"{name}.npz")
  content = io.BytesIO()
  np.savez(content, allow_pickle=False, **arrays_by_path(batch.host))
  files.replace(path, content.getvalue())
  return path
