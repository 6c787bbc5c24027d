"""Several data sets one after another: a curriculum."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.data.dataset import at_length, check_split
from train.data.mixture import Mixed, check_fit
from train.data.order import Order, order_of

__all__ = ["Stages"]


@dataclasses.dataclass(frozen=True)
class Stages:
  """Examples of several data sets, one data set after another.

  Training reads each example of the first source once, then each of the second,
  and so on; each source is shuffled by itself. The last source is then read
  again, epoch after epoch. So the number of examples of a source is the length
  of its stage, and a run that resumes reads the same examples as one that was
  not interrupted. Validation reads the last source alone.

  All sources need examples of one structure: the same arrays with the same
  shapes and dtypes, and the same vocabulary.

  Attributes:
    sources: The data sets, as settings, from the first stage to the last.
  """

  sources: tuple[Any, ...] = ()

  def open(self, split: str) -> Any:
    """Opens the sources.

    Args:
      split: "train" or "validation".

    Raises:
      ValueError: There is no source, or they do not fit each other.
    """
    check_split(split)
    if not self.sources:
      raise ValueError("stages need at least one source, got none")
    if split != "train":
      return self.sources[-1].open(split)
    opened = [source.open(split) for source in self.sources]
    for number, dataset in enumerate(opened):
      check_fit(opened[0], dataset, number, "the stages")
    return Staged(opened, (1,) * len(opened))

  def codec(self, vocab_size: int | None = None) -> Any:
    """Returns the codec of the last source, or None if it has none."""
    make = getattr(self.sources[-1], "codec", None) if self.sources else None
    return None if make is None else make(vocab_size)

  def chance(self) -> float:
    """The accuracy of the last source without learning; see `SequenceTask`."""
    return self.sources[-1].chance()

  def at_length(self, length: int) -> Any:
    """Returns settings of the last source of another length."""
    return at_length(self.sources[-1], length)

  def read_only(self) -> Stages:
    """Returns settings of which no source writes or downloads."""
    return Stages(
      tuple(
        source.read_only() if hasattr(source, "read_only") else source
        for source in self.sources
      )
    )


class Staged(Mixed):
  """Examples of several data sets, numbered end to end; see `Stages`."""

  def order(self, seed: Sequence[int] | None) -> Order:
    """Returns which example is at which place of the stream.

    Args:
      seed: Non-negative integers; None for the order of the indices.
    """
    inner = [
      order_of(dataset, None if seed is None else (*seed, number))
      for number, dataset in enumerate(self._datasets)
    ]
    starts = self._edges[:-1]

    def order(places: np.ndarray) -> np.ndarray:
      stages = np.searchsorted(starts, places, "right") - 1
      found = np.empty_like(places)
      for stage, start in enumerate(starts):
        here = stages == stage
        if here.any():
          found[here] = start + inner[stage](places[here] - start)
      return found

    return order
