"""Silences library threads that print errors which are also raised."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from sys import UnraisableHookArgs


@functools.cache
def quiet_threads() -> None:
  """Silences the threads and tasks of orbax.

  If a write fails, each of them prints a traceback, hundreds of lines in all,
  some after the wait for the last checkpoint. The error is also raised by that
  wait. `threading.excepthook` of Python's threads is not changed.
  """
  show = sys.excepthook

  def show_main(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
  ) -> None:
    if threading.current_thread() is threading.main_thread():
      show(kind, error, traceback)

  show_unraisable = sys.unraisablehook

  def show_ours(unraisable: UnraisableHookArgs) -> None:
    if not _is_late(unraisable):
      show_unraisable(unraisable)

  sys.excepthook = show_main
  sys.unraisablehook = show_ours
  logging.getLogger("asyncio").addFilter(_is_ours)


def _is_late(unraisable: UnraisableHookArgs) -> bool:
  """Whether a write of TensorStore ended after orbax closed its event loop.

  After the first failed write, orbax closes the loop that the other writes
  report to.
  """
  return (
    unraisable.object is None
    and isinstance(unraisable.exc_value, RuntimeError)
    and str(unraisable.exc_value) == "Event loop is closed"
  )


def _is_ours(record: logging.LogRecord) -> bool:
  # The message of a task names the file that defines the task.
  return "orbax" not in record.getMessage()
