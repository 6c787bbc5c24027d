"""Pixel digits: every image once, in one split, in one order of pixels."""

import numpy as np
import pytest

from train.data.tasks import Digits

datasets = pytest.importorskip("sklearn.datasets")


@pytest.mark.parametrize("permuted", [False, True])
def test_every_image_is_in_one_split(permuted):
  images = datasets.load_digits()
  digits = Digits(permuted=permuted, validation_examples=300, seed=3)
  splits = [list(digits.open(name)) for name in ("train", "validation")]
  assert [len(rows) for rows in splits] == [1497, 300]
  # The order of pixels is the one that maps each image to one of the rows.
  rows = [row for some in splits for row in some]
  pixels = np.array([row["inputs"] for row in rows])
  labels = np.array([row["targets"][-1] for row in rows])
  assert all(row["weights"].tolist() == [0.0] * 63 + [1.0] for row in rows)
  order = digits.pixels()
  assert sorted(order) == list(range(64))
  assert (list(order) == list(range(64))) != permuted
  expected = np.column_stack([images.data[:, order], images.target])
  found = np.column_stack([pixels, labels])
  np.testing.assert_array_equal(
    expected[np.lexsort(expected.T)], found[np.lexsort(found.T)]
  )


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="validation_examples must be below"):
    Digits(validation_examples=1797).open("train")
  with pytest.raises(ValueError, match="split must be one of"):
    Digits().open("test")
