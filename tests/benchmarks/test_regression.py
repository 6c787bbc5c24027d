"""The comparison of mixers with the algorithms of regression."""

import numpy as np
import pytest

from benchmarks.regression import RUNS, agreement, algorithms, table
from train.config import command_line
from train.data.tasks import LinearRegression


def test_rates_are_the_best_ones():
  task = LinearRegression(length=12, dims=3, validation_examples=40)
  rows = list(task.generate("validation"))
  found = algorithms(rows)
  ridge = found["ridge"]
  np.testing.assert_array_equal(ridge, [row["reference"][:, 0] for row in rows])
  assert not found["gradient step"][:, 0].any()
  errors = [
    np.sum((factor * found["gradient step"] - ridge) ** 2, 0)[1:]
    for factor in (0.9, 1.0, 1.1)
  ]
  assert (errors[1] < errors[0]).all() and (errors[1] < errors[2]).all()
  assert agreement(ridge, ridge) == 1
  assert agreement(0 * ridge, ridge) == 0


@pytest.mark.parametrize("name", RUNS)
def test_commands_are_those_of_the_config(name):
  words = RUNS[name].command("x")
  assert words[:2] == ["-m", "train"]
  rest = words[3 : words.index("--replicas")]
  config = command_line.override(command_line.load(words[2]), rest)
  assert config.model.depth == RUNS[name].depth
  assert len(config.model.mixers) == 1


def test_the_table_is_in_order():
  records = {
    name: {
      "seeds": seeds,
      "depth": 1,
      "minutes": None,
      "agreement": {"ridge": 0.5, "delta rule": 0.25},
      "at_twice_the_length": seeds,
    }
    for name, seeds in (("low", [0.1, 0.2]), ("high", [0.6, 0.8]))
  }
  lines = table(records).splitlines()
  assert lines[2:] == [
    "| `high` | 1 | 0.700 | 0.600 to 0.800 | 0.700 | 0.250 |  |",
    "| `low` | 1 | 0.150 | 0.100 to 0.200 | 0.150 | 0.250 |  |",
  ]
