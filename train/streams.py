"""Standard streams that may be closed, full, or of a narrow encoding."""

import codecs
import contextlib
import io
import os
import sys

from train.errors import RunError, reason


class ReaderGoneError(Exception):
  """The reader of standard output has closed it, which is no failure."""


class _Replaced:
  """Replaces characters that an encoding lacks, and counts them."""

  count = 0

  def __call__(self, error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
      raise error
    missing = error.end - error.start
    self.count += missing
    return "?" * missing, error.end


_replaced = _Replaced()
codecs.register_error("count", _replaced)


class _Nowhere(io.TextIOBase):
  """A stream that discards its text."""

  def write(self, text: str) -> int:
    return len(text)


def prepare() -> bool:
  """Makes the standard streams safe to use.

  Characters that the encoding of standard output lacks are replaced, and
  `replaced` reports them. A stream that is closed becomes the null device, so
  that no file that is opened later gets its number and with it what libraries
  print. Standard input stays None, which is how Python says that it is closed.

  Returns:
    Whether standard output is there.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, name) is None:
      _occupy(number)
  is_there = sys.stdout is not None
  if not is_there:
    sys.stdout = _Nowhere()
  if sys.stderr is None:
    sys.stderr = _Nowhere()
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="count")
  _replaced.count = 0
  return is_there


def _occupy(number: int) -> None:
  """Opens the null device under a number that is free."""
  try:
    os.fstat(number)
  except OSError:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
      os.dup2(null, number)
      os.close(null)


def mute(name: str) -> None:
  """Discards all further output to "stdout" or "stderr"."""
  stream = getattr(sys, name)
  # Python flushes the old stream at exit, and would complain once more.
  with contextlib.suppress(OSError, ValueError, AttributeError):
    null = os.open(os.devnull, os.O_WRONLY)
    try:
      os.dup2(null, stream.fileno())
    finally:
      os.close(null)
  setattr(sys, name, _Nowhere())


def warn(line: str) -> None:
  """Prints a line for the user beside the output."""
  try:
    print(line, file=sys.stderr, flush=True)
  # A closed stream raises a ValueError.
  except (OSError, ValueError):
    mute("stderr")


def log(text: str, end: str = "\n") -> None:
  """Prints a line; a run continues if the line cannot be printed."""
  try:
    _print(text, end)
  except (OSError, ValueError) as error:
    mute("stdout")
    warn(
      f"warning: standard output cannot be written ({reason(error)}), so no"
      " more is printed"
    )


def emit(text: str, end: str = "\n") -> None:
  """Prints the result of a command.

  Raises:
    ReaderGoneError: The reader has closed its end.
    RunError: It cannot be written.
  """
  try:
    _print(text, end)
  except BrokenPipeError as error:
    mute("stdout")
    raise ReaderGoneError from error
  except (OSError, ValueError) as error:
    mute("stdout")
    raise RunError(
      f"cannot write to standard output: {reason(error)}"
    ) from error


def replaced() -> str | None:
  """Says how many characters were replaced since `prepare`; None for none."""
  if not _replaced.count:
    return None
  return (
    f"{_replaced.count} characters are printed as '?', since standard output is"
    f" in {sys.stdout.encoding}; PYTHONIOENCODING=utf-8 prints all"
  )


def _print(text: str, end: str) -> None:
  try:
    print(text, end=end, flush=True)
  except UnicodeEncodeError:
    # A stream that `prepare` has not seen.
    encoding = sys.stdout.encoding or "ascii"
    text = text.encode(encoding, "replace").decode(encoding)
    print(text, end=end, flush=True)
