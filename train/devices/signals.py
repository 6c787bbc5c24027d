"""Signals that request the end of a run."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

import jax

from train.devices.processes import Agreement


@dataclasses.dataclass
class Stop:
  """A request to end the run, and its signal.

  Attributes:
    asked: The signal that this process received, or None.
    signal: The signal that all processes agreed on in `poll`, or None.
  """

  asked: int | None = None
  signal: int | None = None

  def __post_init__(self) -> None:
    alone = jax.process_count() == 1
    self._agreement = None if alone else Agreement()

  def poll(self) -> bool:
    """Whether to end now; the same answer in all processes.

    With several processes, the answer is one call late, since they first share
    their signals.
    """
    self.signal = self.asked
    if self._agreement is not None:
      self.signal = self._agreement.exchange(self.asked or 0) or None
    return self.signal is not None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
  """Turns SIGTERM and Ctrl-C into a request that the loop polls.

  A second signal ends the process at once, with one line and exit code 128 plus
  the signal's number, even while XLA compiles, when Python itself handles no
  signals. An interactive interpreter holds more than the run, so there a second
  signal has its usual effect.

  Yields:
    The request. It stays empty outside the main thread, since Python allows
    signal handlers only there.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.getsignal(number) for number in numbers}
  # IPython and notebooks set `sys.ps1`, too.
  is_interactive = hasattr(sys, "ps1")

  def restore() -> None:
    for number, handler in before.items():
      signal.signal(number, handler)

  def ask(number: int, frame: FrameType | None) -> None:
    stop.asked = number
    if is_interactive:
      restore()

  for number in numbers:
    signal.signal(number, ask)
  try:
    with contextlib.nullcontext() if is_interactive else _watch(numbers):
      yield stop
  finally:
    restore()


@contextlib.contextmanager
def _watch(numbers: tuple[int, ...]) -> Iterator[None]:
  """Ends the process at the second signal.

  Python writes the number of every signal to a pipe at once, even while the
  main thread is busy in a library. A thread reads the pipe.
  """
  source, sink = os.pipe()
  os.set_blocking(sink, False)
  before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)

  def watch() -> None:
    count = 0
    while received := os.read(source, 1):
      number = received[0]
      if number not in numbers:
        continue
      count += 1
      name = signal.Signals(number).name
      if count == 1:
        line = f"{name}: saving after this step; send it again to end at once"
        _write(sys.stdout, line)
      else:
        _write(sys.stderr, f"error: a second {name}: ended without saving")
        # Does not wait for threads or for the exit handlers of libraries.
        os._exit(128 + number)

  watcher = threading.Thread(target=watch, name="signals", daemon=True)
  watcher.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(sink)
    watcher.join()
    os.close(source)


def _write(stream: TextIO | None, line: str) -> None:
  """Prints a line without taking locks, which the main thread may hold."""
  # The stream may be missing, not a file, or closed by its reader.
  with contextlib.suppress(OSError, ValueError):
    if stream is not None:
      os.write(stream.fileno(), f"{line}\n".encode())
