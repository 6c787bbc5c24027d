"""Pixel digits: real images of handwritten digits as sequences of pixels."""

from __future__ import annotations

import dataclasses

import numpy as np

from train.data.dataset import Dataset, check_at_least, check_split
from train.data.tasks.task import Rows

__all__ = ["Digits"]

_PIXELS = 64
# Intensities are 0 to 16.
_VOCAB = 17


@dataclasses.dataclass(frozen=True)
class Digits:
  """Which digit does an image show, read pixel by pixel?

  The 1,797 images of scikit-learn, 8 x 8 pixels with 17 intensities (Alpaydin &
  Kaynak 1998, the test set of "Optical Recognition of Handwritten Digits" of
  the UCI repository). A row has 64 tokens, and the target of the last one is
  the digit. With `permuted`, one random order of the pixels is used for all
  images, as in permuted MNIST (Le et al. 2015, arXiv:1504.00941). It needs
  scikit-learn, which has the images: the extra `tasks`.

  Attributes:
    permuted: Whether the order of the pixels is random.
    validation_examples: Number of images of the validation split; the others
      are those of the training split.
    seed: At least 0; determines the split and the order of pixels.
  """

  permuted: bool = False
  validation_examples: int = 360
  seed: int = 0

  def open(self, split: str) -> Dataset:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range, or scikit-learn is not installed.
    """
    images, labels = read_images(split, self.validation_examples, self.seed)
    pixels = self.pixels()
    rows = zip(images[:, pixels], labels, strict=True)
    return Rows([_row(image, label) for image, label in rows], _VOCAB)

  def pixels(self) -> np.ndarray:
    """The order of the pixels of an image, [64]."""
    rng = np.random.default_rng([self.seed, 1])
    return rng.permutation(_PIXELS) if self.permuted else np.arange(_PIXELS)


def read_images(
  split: str, validation_examples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads the images of a split.

  Args:
    split: "train" or "validation".
    validation_examples: Number of images of the validation split; the others
      are those of the training split.
    seed: At least 0; determines the split.

  Returns:
    The images [n, 64] and their digits [n], both int32.

  Raises:
    ValueError: An argument is out of range, or scikit-learn is not installed.
  """
  check_split(split)
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ValueError(
      "Digits needs scikit-learn: python -m pip install scikit-learn"
    ) from error
  found = load_digits()
  check_at_least(1, validation_examples=validation_examples)
  check_at_least(0, seed=seed)
  if validation_examples >= len(found.data):
    raise ValueError(
      f"validation_examples must be below {len(found.data)}, the number of"
      f" images, got {validation_examples}"
    )
  order = np.random.default_rng(seed).permutation(len(found.data))
  held_out, rest = np.split(order, [validation_examples])
  chosen = rest if split == "train" else held_out
  images, labels = found.data[chosen], found.target[chosen]
  return images.astype(np.int32), labels.astype(np.int32)


def _row(image: np.ndarray, label: int) -> dict[str, np.ndarray]:
  targets, weights = np.zeros(_PIXELS, np.int32), np.zeros(_PIXELS, np.float32)
  targets[-1], weights[-1] = label, 1
  return {"inputs": image, "targets": targets, "weights": weights}
