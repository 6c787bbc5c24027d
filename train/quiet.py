"""Silences library threads that print errors which are also raised."""

import functools
import logging
import sys
import threading
from types import TracebackType


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

  sys.excepthook = show_main
  logging.getLogger("asyncio").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
  # The message of a task names the file that defines the task.
  return "orbax" not in record.getMessage()
