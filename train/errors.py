"""Errors that end a command with one line, and their exit codes.

Exit codes: 0 the run finished; 1 the run failed (non-finite numbers, a failed
check, a full disk); 2 the command was wrong; 128 + signal number: a signal
ended the run after it had saved. A scheduler that checks the exit code can
start the same command again, and the run resumes.
"""

import errno
import traceback
from collections.abc import Iterator

# Most characters of an error line, since a user's input may be long.
_LONGEST = 2000


class UserError(Exception):
  """A mistake that the user can fix; its text is one line."""

  exit_code = 2


class RunError(Exception):
  """The run itself failed; its text is one line."""

  exit_code = 1


class NonFiniteError(RunError):
  """The loss or the gradient was not finite."""


class CheckError(RunError):
  """A chex check failed in debug mode."""


def one_line(error: BaseException | str, longest: int = _LONGEST) -> str:
  """Returns the text of an error in one line.

  Args:
    error: An error, or a text.
    longest: Most characters; the middle of a longer text is left out.
  """
  text = " ".join(str(error).split())
  if not text and isinstance(error, BaseException):
    text = type(error).__name__
  if len(text) <= longest:
    return text
  tail = longest // 4
  return f"{text[: longest - tail - 5]} ... {text[-tail:]}"


def reason(error: BaseException) -> str:
  """Returns the reason of a failure, without the path of the file."""
  strerror = error.strerror if isinstance(error, OSError) else None
  return strerror or one_line(error)


def described(error: BaseException) -> str:
  """Returns the line of an error from a user's model or data.

  An error that the code raises on purpose needs only its text. Other errors
  need their type and their place in the code.
  """
  text = one_line(error)
  if isinstance(error, OSError | ValueError | ImportError):
    return text
  return f"{type(error).__name__}: {text}{place(error)}"


def place(error: BaseException) -> str:
  """Returns " (FILE:LINE)" of an error, in code that is not installed."""
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if "site-packages" not in frame.filename]
  return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def shown(value: object) -> str:
  """Returns a value as a short text to quote in an error."""
  try:
    return one_line(repr(value), 80)
  except ValueError:
    # Python does not print integers of more than 4,300 digits.
    return "a number of thousands of digits"


def chain(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error, then its causes."""
  seen: set[int] = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    yield error
    error = error.__cause__ or error.__context__


def _is(
  error: BaseException | None, numbers: tuple[int, ...], text: str
) -> bool:
  """Whether an error or one of its causes is a given system error.

  Storage libraries wrap errors of the operating system, and some keep only the
  text, so this compares both the number and the text.
  """
  return any(
    (isinstance(one, OSError) and one.errno in numbers) or text in str(one)
    for one in chain(error)
  )


def is_disk_full(error: BaseException | None) -> bool:
  """Whether a full disk caused an error.

  Args:
    error: The error that was caught.
  """
  numbers = (errno.ENOSPC, errno.EDQUOT)
  return _is(error, numbers, "No space left on device")


def is_file_too_large(error: BaseException | None) -> bool:
  """Whether the limit of file sizes caused an error.

  Args:
    error: The error that was caught.
  """
  return _is(error, (errno.EFBIG,), "File too large")
