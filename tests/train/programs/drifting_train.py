"""`python -m train` with code that differs between processes.

The environment variable DRIFT chooses the difference: "step" and "evaluation"
change a number in the step or evaluation, "init" the first parameters.
"""

import os
import sys

import jax

from tests.train import tiny
from train import __main__ as command
from train import step
from train.command import main_with_errors
from train.devices import strategy

DRIFT = os.environ.get("DRIFT", "")
_means, _eval_step = step.means, strategy.eval_step


def _other_means(sums):
  metrics = _means(sums)
  return {**metrics, "accuracy": metrics["accuracy"] * 1.001}


def _other_eval_step(task, params, batch):
  sums = _eval_step(task, params, batch)
  return {**sums, "correct": sums["correct"] * 1.001}


if __name__ == "__main__":
  if DRIFT == "step":
    step.means = _other_means
  elif DRIFT == "evaluation":
    strategy.eval_step = _other_eval_step
  elif DRIFT == "init":
    tiny.nn.initializers.zeros = jax.nn.initializers.ones
  sys.exit(main_with_errors(command._run))
