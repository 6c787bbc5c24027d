"""Sends batches to the devices before a step needs them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from train.data import Batches


class Placed(NamedTuple):
  """A batch on the host and on the devices.

  Attributes:
    host: Arrays `[B, L]`.
    device: The same arrays on the devices, sharded for the strategy.
    position: The data position before the batch.
  """

  host: Mapping[str, np.ndarray]
  device: Any
  position: int


class Prefetched:
  """Returns batches, and sends one batch to the devices ahead of time.

  A dispatch returns at once, so no thread is needed: a batch that is read and
  sent right after a dispatch is prepared while the devices run the step. One
  batch ahead keeps the devices busy if reading a batch takes at most the time
  of a step, and occasionally the time of two.

  Args:
    batches: The stream.
    place: Sends arrays `[B, L]` to the devices.
  """

  def __init__(
    self, batches: Batches, place: Callable[[Mapping[str, np.ndarray]], Any]
  ):
    self._batches = batches
    self._place = place
    self._ahead: Placed | Exception | None = None
    self._position = batches.position

  @property
  def position(self) -> int:
    """Number of examples returned so far: the position to resume at."""
    return self._position

  def prefetch(self) -> None:
    """Reads and sends the next batch, unless it was prefetched already.

    `take` raises an error of this batch later, so that the loop first reports
    and saves the steps before it.
    """
    if self._ahead is None:
      try:
        self._ahead = self._read()
      except Exception as error:
        self._ahead = error

  def take(self) -> Placed:
    """Returns the next batch; reads it now if it was not prefetched."""
    self.prefetch()
    ahead, self._ahead = self._ahead, None
    if isinstance(ahead, Exception):
      raise ahead
    assert ahead is not None
    self._position = self._batches.position
    return ahead

  def _read(self) -> Placed:
    position = self._batches.position
    with jax.profiler.TraceAnnotation("read batch"):
      host = next(self._batches)
    return Placed(host, self._place(host), position)
