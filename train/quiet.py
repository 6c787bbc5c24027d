"""Silences library threads that print errors which are raised anyway."""

import functools
import logging
import sys
import threading
from types import TracebackType


@functools.cache
def quiet_threads() -> None:
  """Drops what the checkpoint library's own threads and tasks print.

  When a write fails, each of them prints a traceback, hundreds of lines in
  all, some of them after the last checkpoint was waited for. The error itself
  is raised where it is waited for. Threads of Python have a hook of their own.
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
  # A task says in which file it is defined.
  return "orbax" not in record.getMessage()
