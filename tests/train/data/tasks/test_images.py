"""Images of digits and of shapes."""

import dataclasses

import numpy as np
import pytest

from train.data.tasks import DigitImages, Digits, TexturedShapes

pytest.importorskip("sklearn.datasets")


def test_the_images_are_those_of_the_rows_of_pixels():
  for split in ("train", "validation"):
    rows, images = Digits(seed=2).open(split), DigitImages(seed=2).open(split)
    assert len(rows) == len(images)
    for i in (0, len(rows) - 1):
      pixels = images[i]["inputs"]
      assert pixels.shape == (8, 8, 1)
      np.testing.assert_array_equal(pixels.ravel() * 16, rows[i]["inputs"])
      assert images[i]["targets"] == rows[i]["targets"][-1]


def test_a_digit_that_is_left_out_is_in_validation_alone():
  found = DigitImages(left_out=3)
  train, validation = (found.open(name) for name in ("train", "validation"))
  assert {int(image["targets"]) for image in train} == set(range(10)) - {3}
  flags = [(image["anomalous"], image["targets"] == 3) for image in validation]
  assert all(flag == wanted for flag, wanted in flags)
  assert 0 < sum(wanted for _, wanted in flags) < len(flags) / 2


def test_shapes_have_equal_areas_and_no_holes():
  shapes = TexturedShapes(train_examples=60, validation_examples=2)
  train = shapes.open("train")
  images = [train[i] for i in range(60)]
  areas = np.array(
    [[np.sum(image["targets"] == c) for c in (1, 2)] for image in images]
  )
  assert 0.7 < areas[:, 0].mean() / areas[:, 1].mean() < 1.4
  for image in images:
    pixels = image["inputs"]
    assert pixels.shape == (32, 32, 3)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    rows, columns = np.nonzero(image["targets"] == 2)
    if len(rows):
      # Only the disk can hide a part of the square.
      box = image["targets"][
        rows.min() : rows.max(), columns.min() : columns.max()
      ]
      assert np.all(box > 0)


def test_an_image_depends_on_its_number_and_split_alone():
  shapes = TexturedShapes(train_examples=9, validation_examples=8)
  found = shapes.open("train")[7]
  again = dataclasses.replace(shapes, train_examples=90).open("train")[7]
  other = shapes.open("validation")[7]
  np.testing.assert_array_equal(found["inputs"], again["inputs"])
  assert np.any(found["targets"] != other["targets"])


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="left_out must be a digit, got 10"):
    DigitImages(left_out=10).open("train")
  with pytest.raises(ValueError, match="size must be at most 214, got 300"):
    TexturedShapes(size=300).open("validation")
