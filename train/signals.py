"""Signals that ask a run to end."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax

from train.processes import Agreement


@dataclasses.dataclass
class Stop:
  """Whether, and by which signal, the run was asked to end.

  Attributes:
    asked: The signal that this process got, or None.
    signal: The one that all processes know of, once `poll` says so.
  """

  asked: int | None = None
  signal: int | None = None

  def __post_init__(self) -> None:
    alone = jax.process_count() == 1
    self._agreement = None if alone else Agreement()

  def poll(self) -> bool:
    """Says whether to end now: to all processes in the same call.

    With several, that is one call after one of them has got a signal.
    """
    self.signal = self.asked
    if self._agreement is not None:
      self.signal = self._agreement.exchange(self.asked or 0) or None
    return self.signal is not None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
  """Turns SIGTERM and Ctrl-C into a request that the loop looks at.

  A second Ctrl-C or SIGTERM does what it would do without this, so that a run
  that hangs can still be ended.

  Yields:
    The request. It stays empty outside the main thread, where Python allows
    no handlers.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.getsignal(number) for number in numbers}

  def restore() -> None:
    for number, handler in before.items():
      signal.signal(number, handler)

  def ask(number: int, frame: FrameType | None) -> None:
    stop.asked = number
    restore()

  for number in numbers:
    signal.signal(number, ask)
  try:
    yield stop
  finally:
    restore()
