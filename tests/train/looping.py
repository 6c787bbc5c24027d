"""Runs of the tiny config, interrupted at a line and compared."""

import jax
import numpy as np

from train import __main__ as command
from train.command import main_with_errors
from train.metrics import MetricsWriter, read_metrics

TIMING = ("step_seconds", "tokens_per_second", "compile_seconds")


def lines(workdir):
  return [
    {k: v for k, v in line.items() if k not in TIMING}
    for line in read_metrics(workdir)
  ]


def assert_same_run(workdir, result, finished):
  assert result.step == finished[1].step
  jax.tree.map(np.testing.assert_array_equal, result.params, finished[1].params)
  assert lines(workdir) == lines(finished[0])


def at_line(monkeypatch, step, action):
  """Does something when the training line of a step is written."""
  write = MetricsWriter.write

  def spy(self, number, split, values):
    write(self, number, split, values)
    if (number, split) == (step, "train"):
      action()

  monkeypatch.setattr(MetricsWriter, "write", spy)


def train(*words):
  words = ("tests/train/tiny.py", *words)
  return main_with_errors(command._run, words)
