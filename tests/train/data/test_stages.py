"""Stages read one data set after another, and can resume anywhere."""

import numpy as np
import pytest

from tests.train.data.test_mixture import Numbers, take
from train.data import Batches, Stages

SIZES = (30, 7, 20)
SOURCES = tuple(Numbers(1000 * i, size) for i, size in enumerate(SIZES))


def test_each_source_is_read_once_and_the_last_one_again():
  rows = Stages(sources=SOURCES).open("train")
  places = np.arange(30 + 7 + 2 * 20)
  for seed in (None, (5,)):
    found = np.array([rows[i]["inputs"][0] for i in rows.order(seed)(places)])
    first, second, third, again = np.split(found, (30, 37, 57))
    for part, start, size in (
      (first, 0, 30), (second, 1000, 7), (third, 2000, 20), (again, 2000, 20)
    ):  # fmt: skip
      assert sorted(part) == list(range(start, start + size))
    assert (seed is None) == (list(first) == sorted(first))
    assert (seed is None) == (list(third) == list(again))


def test_batches_resume_at_any_place():
  rows = Stages(sources=SOURCES).open("train")
  wanted = take(Batches(rows, 4, seed=1), 20)
  for start in (1, 7, 9, 13):
    begun = Batches(rows, 4, seed=1)
    take(begun, start)
    resumed = Batches(rows, 4, seed=1, position=begun.position)
    np.testing.assert_array_equal(take(resumed, 20 - start), wanted[start:])


def test_validation_is_that_of_the_last_source():
  assert Stages(sources=SOURCES).open("validation") is SOURCES[-1]


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="at least one source"):
    Stages().open("train")
  with pytest.raises(
    ValueError, match="source 1 of the stages has another vocabulary"
  ):
    Stages(sources=(Numbers(), Numbers(vocab_size=3))).open("train")
