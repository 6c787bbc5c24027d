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
    check_split(split)
    images, labels = read_images()
    check_at_least(1, validation_examples=self.validation_examples)
    check_at_least(0, seed=self.seed)
    if self.validation_examples >= len(images):
      raise ValueError(
        f"validation_examples must be below {len(images)}, the number of"
        f" images, got {self.validation_examples}"
      )
    order = np.random.default_rng(self.seed).permutation(len(images))
    pixels = self.pixels()
    held_out, rest = np.split(order, [self.validation_examples])
    chosen = rest if split == "train" else held_out
    return Rows([_row(images[i][pixels], labels[i]) for i in chosen], _VOCAB)

  def pixels(self) -> np.ndarray:
    """The order of the pixels of an image, [64]."""
    rng = np.random.default_rng([self.seed, 1])
    return rng.permutation(_PIXELS) if self.permuted else np.arange(_PIXELS)


def read_images() -> tuple[np.ndarray, np.ndarray]:
  """The images [n, 64] and their digits [n]."""
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ValueError(
      "Digits needs scikit-learn: python -m pip install scikit-learn"
    ) from error
  found = load_digits()
  return found.data.astype(np.int32), found.target.astype(np.int32)


def _row(image: np.ndarray, label: int) -> dict[str, np.ndarray]:
  targets, weights = np.zeros(_PIXELS, np.int32), np.zeros(_PIXELS, np.float32)
  targets[-1], weights[-1] = label, 1
  return {"inputs": image, "targets": targets, "weights": weights}
