"""Errors that end a command with one line, and the exit codes they mean.

Exit codes: 0 finished, 1 the run failed (non-finite numbers, a failed check,
a full disk), 2 the command was wrong, 128 + signal number when a signal ended
the run after it had saved. A stopped run is not a finished one, so a scheduler
that looks at the code starts the same command again, and it resumes.
"""

import errno


class UserError(Exception):
  """A mistake that the user can put right; its text is one line."""

  exit_code = 2


class RunError(Exception):
  """The run itself failed; its text is one line."""

  exit_code = 1


class NonFiniteError(RunError):
  """The loss or the gradient was not finite."""


class CheckError(RunError):
  """A chex check failed in debug mode."""


def one_line(error: BaseException | str) -> str:
  """Returns the text of an error with its line breaks folded."""
  return " ".join(str(error).split())


def is_disk_full(error: BaseException | None) -> bool:
  """Says whether an error, or one that led to it, is a full disk.

  Storage libraries wrap the error of the operating system, some of them
  keeping only its text, so both the number and the text count.

  Args:
    error: What was caught.
  """
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    if isinstance(error, OSError) and error.errno in (
      errno.ENOSPC,
      errno.EDQUOT,
    ):
      return True
    if "No space left on device" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False
