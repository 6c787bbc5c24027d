"""Regression in context: its rows, and its algorithms by brute force."""

import dataclasses

import numpy as np
import pytest

from train.data.tasks import LinearRegression
from train.data.tasks.regression import (
  delta_rule,
  gradient_step,
  least_squares,
  ridge,
)

TASK = LinearRegression(length=10, dims=4, noise=0.5, validation_examples=2000)


def drawn(length=9, dims=3):
  rng = np.random.default_rng(0)
  return rng.normal(size=(length, dims)), rng.normal(size=length)


def fitted(x, y, strength):
  """Ridge regression as least squares with a row more per channel."""
  more = np.sqrt(strength) * np.eye(x.shape[1])
  rows, values = np.vstack([x, more]), np.append(y, np.zeros(x.shape[1]))
  return np.linalg.pinv(rows) @ values


def test_each_prediction_is_that_of_the_pairs_before_it():
  x, y = drawn()
  for strength, found in (
    (0.7, ridge(x, y, 0.7)),
    (0.0, least_squares(x, y)),
  ):
    wanted = [fitted(x[:i], y[:i], strength) @ x[i] for i in range(len(y))]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
  np.testing.assert_allclose(gradient_step(x, y), np.tril(x @ x.T, -1) @ y)


def test_the_delta_rule_descends_the_error_of_each_pair():
  x, y = drawn()
  # With rate 1 a pair is fitted at once, so the same x has the same y.
  twice = delta_rule(np.repeat(x, 2, 0), np.repeat(y, 2), 1.0)
  np.testing.assert_allclose(twice[1::2], y)
  # The prediction of pair 2 in full, for another rate.
  first = 0.3 * y[0] * x[0] / (x[0] @ x[0])
  second = first + 0.3 * (y[1] - first @ x[1]) * x[1] / (x[1] @ x[1])
  np.testing.assert_allclose(delta_rule(x, y, 0.3)[2], second @ x[2])


def test_a_position_reads_the_pair_before_it_and_its_own_question():
  for row in dataclasses.replace(TASK, train_examples=20).generate("train"):
    x, y = TASK.pairs(row)
    assert all(array.dtype == np.float32 for array in row.values())
    assert row["inputs"].shape == (10, TASK.width)
    assert not row["inputs"][0, :5].any()
    np.testing.assert_array_equal(row["inputs"][1:, :4], x[:-1])
    np.testing.assert_array_equal(row["inputs"][1:, 4], y[:-1])
    # The answer of a position is nowhere in its inputs or in those before.
    for i in range(len(y)):
      assert not (row["inputs"][: i + 1] == row["targets"][i]).any()


def test_no_prediction_is_better_than_the_reference():
  rows = [
    (*TASK.pairs(row), row["reference"][:, 0])
    for row in TASK.generate("validation")
  ]
  y = np.stack([own for _, own, _ in rows])
  error = np.mean((np.stack([r for _, _, r in rows]) - y) ** 2, 0)
  # The variance of y, which is the error of a prediction of 0.
  deviation = 1.25 * np.sqrt(2 / y.size)
  assert abs(np.mean(y**2) - 1.25) < 8 * deviation
  np.testing.assert_allclose(error[0], np.mean(y[:, 0] ** 2))
  assert error[-1] < 0.5 * error[0]
  others = [
    lambda x, y: ridge(x, y, TASK.strength / 3),
    lambda x, y: ridge(x, y, TASK.strength * 3),
    lambda x, y: delta_rule(x, y, 0.5),
    lambda x, y: gradient_step(x, y) / 10,
    least_squares,
  ]
  for predict in others:
    found = np.stack([predict(x, own) for x, own, _ in rows])
    assert np.mean((found - y) ** 2) > np.mean(error)


def test_stored_rows_are_those_that_are_generated(tmp_path):
  task = dataclasses.replace(
    TASK,
    validation_length=14,
    train_examples=1,
    validation_examples=1,
    data_dir=str(tmp_path),
  )
  assert task.codec() is None
  for split, length in (("train", 10), ("validation", 14)):
    (wanted,) = task.generate(split)
    dataset = task.open(split)
    assert dataset.vocab_size is None and not hasattr(dataset, "decode")
    found = dataset[0]
    assert found["inputs"].shape == (length, 9)
    for name, array in wanted.items():
      np.testing.assert_array_equal(found[name], array)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="noise must be above 0"):
    dataclasses.replace(TASK, noise=0.0).open("train")
  with pytest.raises(ValueError, match="dims must be at least 1"):
    dataclasses.replace(TASK, dims=0).open("train")
