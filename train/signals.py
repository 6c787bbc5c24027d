"""Signals that ask a run to end."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@dataclasses.dataclass
class Stop:
  """Whether, and by which signal, the run was asked to end."""

  signal: int | None = None


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
    stop.signal = number
    restore()

  for number in numbers:
    signal.signal(number, ask)
  try:
    yield stop
  finally:
    restore()
