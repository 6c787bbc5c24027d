"""Tasks of images, which are arrays [H, W, C] and have no vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import Example, check_at_least, check_index, check_split
from train.data.tasks.digits import read_images

__all__ = ["DigitImages", "Images"]


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
    check_split(split)
    images, labels = read_images()
    check_at_least(1, validation_examples=self.validation_examples)
    check_at_least(0, seed=self.seed)
    if self.validation_examples >= len(images):
      raise ValueError(
        f"validation_examples must be below {len(images)}, the number of"
        f" images, got {self.validation_examples}"
      )
    if self.left_out is not None and self.left_out not in range(10):
      raise ValueError(f"left_out must be a digit, got {self.left_out}")
    order = np.random.default_rng(self.seed).permutation(len(images))
    held_out, rest = np.split(order, [self.validation_examples])
    chosen = rest if split == "train" else held_out
    if split == "train" and self.left_out is not None:
      chosen = chosen[labels[chosen] != self.left_out]
    return Images([self._example(images[i], labels[i]) for i in chosen])

  def _example(self, image: np.ndarray, label: np.ndarray) -> Example:
    pixels = image.reshape(8, 8, 1).astype(np.float32) / 16
    found = {"inputs": pixels, "targets": np.int32(label)}
    if self.left_out is None:
      return found
    return {**found, "anomalous": np.float32(label == self.left_out)}
