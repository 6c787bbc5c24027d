"""Tasks of images, which are arrays [H, W, C] and have no vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import (
  SPLITS,
  Example,
  check_at_least,
  check_index,
  check_split,
)
from train.data.tasks.digits import read_images

__all__ = ["DigitImages", "Images", "TexturedShapes"]


class Images:
  """Examples of images in memory; no axis of an image is a sequence."""

  sequence: tuple[str, ...] = ()

  def __init__(self, examples: Sequence[dict[str, Any]]):
    self._examples = examples

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: SupportsIndex) -> Example:
    return self._examples[check_index(index, len(self))]


@dataclasses.dataclass(frozen=True)
class DigitImages:
  """The images of handwritten digits of `Digits`, whole.

  An example has "inputs" [8, 8, 1], intensities from 0 to 1, and "targets", the
  digit. With `left_out`, the training split lacks one digit, and examples also
  have "anomalous", 1 for an image of that digit: the task is then to tell such
  images from the others. The images of both splits are those of `Digits` with
  the same seed. It needs scikit-learn, which has the images: the extra `tasks`.

  Attributes:
    left_out: The digit that is not trained on; None to train on all.
    validation_examples: Number of images of the validation split; the others
      are those of the training split.
    seed: At least 0; determines the split.
  """

  left_out: int | None = None
  validation_examples: int = 360
  seed: int = 0

  def open(self, split: str) -> Images:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range, or scikit-learn is not installed.
    """
    images, labels = read_images(split, self.validation_examples, self.seed)
    if self.left_out is not None and self.left_out not in range(10):
      raise ValueError(f"left_out must be a digit, got {self.left_out}")
    return Images(
      [
        self._example(image, label)
        for image, label in zip(images, labels, strict=True)
        if split == "validation" or label != self.left_out
      ]
    )

  def _example(self, image: np.ndarray, label: np.ndarray) -> Example:
    pixels = image.reshape(8, 8, 1).astype(np.float32) / 16
    found = {"inputs": pixels, "targets": np.int32(label)}
    if self.left_out is None:
      return found
    return {**found, "anomalous": np.float32(label == self.left_out)}


@dataclasses.dataclass(frozen=True)
class TexturedShapes:
  """Which pixels of an image belong to a disk, and which to a square?

  The background is a piece of one of scikit-learn's two photographs, "china"
  and "flower". Each image has one disk and one square, which may overlap, and
  the later one is in front. A shape is filled with another piece of a
  photograph, so its outline is the only sign of it. The training split has the
  left two thirds of the photographs, and the validation split the right third.

  An example has "inputs" [size, size, 3], from 0 to 1, and "targets"
  [size, size]: 0 for the background, 1 for the disk and 2 for the square. It
  depends on the seed, the split and its number alone. It needs scikit-learn
  (the extra `tasks`).

  Attributes:
    size: The number of pixels along a side of the image, at least 16.
    train_examples: Number of images of the training split.
    validation_examples: Number of images of the validation split.
    seed: At least 0; determines the images.
  """

  size: int = 32
  train_examples: int = 5_000
  validation_examples: int = 320
  seed: int = 0

  def open(self, split: str) -> ShapeImages:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range, or scikit-learn is not installed.
    """
    check_split(split)
    check_at_least(16, size=self.size)
    check_at_least(
      1,
      train_examples=self.train_examples,
      validation_examples=self.validation_examples,
    )
    check_at_least(0, seed=self.seed)
    photographs = []
    for photograph in _photographs():
      cut = 2 * photograph.shape[1] // 3
      own = photograph[:, :cut] if split == "train" else photograph[:, cut:]
      if self.size > min(own.shape[:2]):
        raise ValueError(
          f"size must be at most {min(own.shape[:2])}, got {self.size}"
        )
      photographs.append(own)
    return ShapeImages(self, split, photographs)


class ShapeImages:
  """Images of shapes, drawn when they are read; see `TexturedShapes`."""

  sequence: tuple[str, ...] = ()

  def __init__(
    self, settings: TexturedShapes, split: str, photographs: list[np.ndarray]
  ):
    self._settings, self._photographs = settings, photographs
    self._split = SPLITS.index(split)
    self._count = getattr(settings, f"{split}_examples")

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: SupportsIndex) -> Example:
    number, size = check_index(index, len(self)), self._settings.size
    rng = np.random.default_rng([self._settings.seed, self._split, number])
    image = self._piece(rng)
    targets = np.zeros((size, size), np.int32)
    for shape in rng.permutation([1, 2]):
      inside = _shape(rng, size, int(shape))
      image = np.where(inside[..., None], self._piece(rng), image)
      targets = np.where(inside, np.int32(shape), targets)
    return {"inputs": image.astype(np.float32) / 255, "targets": targets}

  def _piece(self, rng: np.random.Generator) -> np.ndarray:
    """A random piece [size, size, 3] of a photograph."""
    photograph = self._photographs[rng.integers(len(self._photographs))]
    size = self._settings.size
    top, left = (rng.integers(side - size + 1) for side in photograph.shape[:2])
    return photograph[top : top + size, left : left + size]


def _shape(rng: np.random.Generator, size: int, kind: int) -> np.ndarray:
  """Which pixels [size, size] are in a disk (kind 1) or a square (2)."""
  radius = rng.uniform(size / 6, size / 3)
  center = rng.uniform(radius, size - radius, 2)
  distance = np.abs(np.moveaxis(np.indices((size, size)), 0, -1) + 0.5 - center)
  if kind == 1:
    return (distance**2).sum(-1) < radius**2
  # A square with the area of the disk.
  return distance.max(-1) < radius * np.sqrt(np.pi) / 2


def _photographs() -> list[np.ndarray]:
  """The photographs [height, width, 3] of scikit-learn."""
  try:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
  except ImportError as error:
    raise ValueError(
      "TexturedShapes needs scikit-learn and Pillow: python -m pip install"
      " scikit-learn pillow"
    ) from error
