"""Batches that lie on the devices before a step asks for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from train.data import Batches


class Placed(NamedTuple):
  """A batch on the host and on the devices.

  Attributes:
    host: Arrays `[B, L]`.
    device: The same, as a strategy wants it.
    position: Of the data, before the batch.
  """

  host: Mapping[str, np.ndarray]
  device: Any
  position: int


class Prefetched:
  """Hands out batches, and puts one on the devices ahead of time.

  Steps are dispatched and not waited for, so no thread is needed: what is
  read and sent right after a dispatch is read and sent while the devices
  work. One batch ahead keeps them busy as long as a batch is read in the
  time of a step, and now and then in that of two.

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
    """Examples of the stream that were handed out: where to resume."""
    return self._position

  def prefetch(self) -> None:
    """Reads the next batch and sends it, unless that was done.

    An error is kept for the `take` it belongs to: first the loop reports and
    saves what was done before.
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
