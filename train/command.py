"""How every command of the trainer ends: one line, and an exit code."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import logging

from train import threads
from train.errors import RunError, UserError, is_disk_full, one_line


def warn(line: str) -> None:
  """Prints a line for the user beside the output."""
  print(line, file=sys.stderr, flush=True)


def explain(error: Exception) -> tuple[str, int] | None:
  """Returns the line and the exit code of an error that users can cause.

  Args:
    error: What ended the command.

  Returns:
    None for an error of ours.
  """
  if isinstance(error, UserError | RunError):
    return one_line(error), error.exit_code
  # Storage libraries raise many types; any of them may be a full disk.
  if is_disk_full(error):
    line = (
      "the disk is full; make room, and the same command resumes from the last"
      " complete checkpoint"
    )
    return line, RunError.exit_code
  return None


def main_with_errors(
  run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None
) -> int:
  """Runs a command, and turns what users can cause into one line.

  Args:
    run: Takes the arguments, returns the exit code.
    argv: The arguments; those of the process if None.

  Returns:
    The exit code: see `train.errors`.
  """
  # What the checkpoint library logs before it raises it, we say ourselves.
  logging.set_verbosity(logging.FATAL)
  threads.spare()
  try:
    return run(sys.argv[1:] if argv is None else argv)
  except BrokenPipeError:
    # The reader of our output has gone, which is no error of ours; Python
    # would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except Exception as error:
    explained = explain(error)
    if explained is None:
      raise
    line, code = explained
    warn(f"error: {line}")
    return code
