"""Rows with one target, as sequences with a class."""

import numpy as np
import pytest

from train.data.dataset import sequence_arrays, sequence_length
from train.data.tasks import Classes, ListOps, Parity


def test_an_example_has_the_row_its_class_and_its_mask():
  task = ListOps(length=24, validation_examples=5, train_examples=5)
  rows = task.read_only().open("validation")
  found = Classes(task, fill=0).read_only().open("validation")
  assert len(found) == 5 and found.vocab_size == task.vocab_size
  for row, example in zip(rows, found, strict=True):
    assert set(example) == {"inputs", "targets", "mask"}
    np.testing.assert_array_equal(example["inputs"], row["inputs"])
    assert example["targets"] == row["targets"][-1]
    np.testing.assert_array_equal(example["mask"], row["inputs"] > 0)
  values = [int(example["targets"]) for example in found]
  chance = Classes(task).chance()
  assert chance == max(map(values.count, values)) / len(values)
  assert sequence_arrays(found, found[0]) == ("inputs", "mask")
  assert sequence_length(found, found[0]) == 24
  longer = Classes(task).at_length(32).read_only().open("validation")
  assert {*longer[0]} == {"inputs", "targets"}
  assert longer[0]["inputs"].shape == (32,)


def test_a_task_with_more_targets_is_refused():
  rows = Classes(Parity(validation_examples=1)).read_only().open("validation")
  with pytest.raises(ValueError, match="one position with a weight, got"):
    rows[0]
