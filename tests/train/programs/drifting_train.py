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
_apply, _eval_step = step.apply, strategy.eval_step


def _other_apply(*args):
  state, metrics = _apply(*args)
  return state, {**metrics, "grad_norm": metrics["grad_norm"] * 1.001}


def _other_eval_step(*args):
  sums = _eval_step(*args)
  return {**sums, "accuracy": sums["accuracy"] * 1.001}


if __name__ == "__main__":
  if DRIFT == "step":
    step.apply = _other_apply
  elif DRIFT == "evaluation":
    strategy.eval_step = _other_eval_step
  elif DRIFT == "init":
    tiny.nn.initializers.zeros = jax.nn.initializers.ones
  sys.exit(main_with_errors(command._run))
