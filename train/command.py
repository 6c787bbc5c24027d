"""Runs a command of the trainer: an error gives one line and an exit code."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from absl import logging

from train import streams
from train.devices import threads
from train.errors import (
  RunError,
  UserError,
  is_disk_full,
  is_file_too_large,
  one_line,
  place,
)
from train.streams import warn

__all__ = ["explain", "main_with_errors", "warn"]

# Exit code after Ctrl-C: 128 + SIGINT, as in shells.
_INTERRUPTED = 130


def explain(error: Exception) -> tuple[str, int]:
  """Returns the line and the exit code of an error.

  Args:
    error: The error that ended the command.
  """
  if isinstance(error, UserError | RunError):
    return one_line(error), error.exit_code
  # Storage libraries raise many types of errors for a full disk.
  if is_disk_full(error):
    line = (
      "the disk is full; make room, and the same command resumes from the last"
      " complete checkpoint"
    )
    return line, RunError.exit_code
  if is_file_too_large(error):
    line = (
      "a file became larger than this process may write; raise the limit"
      " (`ulimit -f`), and the same command resumes from the last complete"
      " checkpoint"
    )
    return line, RunError.exit_code
  text = one_line(error)
  if "Unable to initialize backend" in text:
    return text, UserError.exit_code
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    line = (
      f"out of memory ({one_line(error, 200)}); lower config.batch_size, raise"
      " config.accumulation, or take a smaller model"
    )
    return line, RunError.exit_code
  if isinstance(error, OSError) and error.filename is not None:
    name = os.fsdecode(error.filename)
    return f"{name}: {error.strerror}", RunError.exit_code
  return _unexpected(error), RunError.exit_code


def _unexpected(error: Exception) -> str:
  """Describes an unexpected error, and writes its traceback to a file."""
  text = one_line(error, 500)
  line = f"unexpected {type(error).__name__}: {text}{place(error)}"
  try:
    with tempfile.NamedTemporaryFile(
      "w", prefix="jaxmodels-", suffix=".txt", delete=False, errors="replace"
    ) as file:
      traceback.print_exception(error, file=file)
  except OSError:
    return line
  return f"{line}; the traceback is in {file.name}"


def _finish(code: int, needs_output: bool) -> int:
  """Flushes the output, and reports characters that were replaced."""
  (streams.emit if needs_output else streams.log)("", end="")
  lost = streams.replaced()
  if lost is None:
    return code
  if not needs_output:
    warn(f"warning: {lost}")
    return code
  # The printed result is not the true one.
  raise RunError(lost)


def main_with_errors(
  run: Callable[[Sequence[str]], int],
  argv: Sequence[str] | None = None,
  *,
  needs_output: bool = True,
) -> int:
  """Runs a command, and turns every error into one line.

  Args:
    run: Takes the arguments, returns the exit code.
    argv: The arguments; those of the process if None.
    needs_output: Whether the command fails if standard output is closed.

  Returns:
    The exit code: see `train.errors`.
  """
  # Orbax logs errors before it raises them; we print them ourselves.
  logging.set_verbosity(logging.FATAL)
  has_output = streams.prepare()
  try:
    if needs_output and not has_output:
      raise UserError("standard output is closed, but the result goes there")
    threads.reserve_threads()
    code = run(sys.argv[1:] if argv is None else argv)
    return _finish(code, needs_output)
  except streams.ReaderGoneError:
    return 0
  except SystemExit as end:
    # A parser has printed its help.
    return end.code if isinstance(end.code, int) else 0
  except KeyboardInterrupt:
    warn("error: interrupted")
    return _INTERRUPTED
  except Exception as error:
    line, code = explain(error)
    warn(f"error: {line}")
    return code
