"""Standard streams, which may be closed, full, or limited in encoding."""

import codecs
import contextlib
import io
import os
import sys

from train.errors import RunError, reason


class ReaderGoneError(Exception):
  """The reader of standard output has closed it, which is not a failure."""


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
  `replaced` reports them. A closed stream becomes the null device. Otherwise a
  file that is opened later could get its descriptor, and libraries would print
  into that file. `sys.stdin` of a closed standard input stays None.

  Returns:
    Whether standard output is open.
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
  """Opens the null device as descriptor `number`, if that is free."""
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
  # Python flushes the old stream at exit, which would print another error.
  with contextlib.suppress(OSError, ValueError, AttributeError):
    null = os.open(os.devnull, os.O_WRONLY)
    try:
      os.dup2(null, stream.fileno())
    finally:
      os.close(null)
  setattr(sys, name, _Nowhere())


def warn(line: str) -> None:
  """Prints a line to standard error."""
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
      f"warning: cannot write to standard output ({reason(error)}): nothing"
      " more will be printed"
    )


def emit(text: str, end: str = "\n") -> None:
  """Prints the result of a command.

  Raises:
    ReaderGoneError: The reader has closed its end.
    RunError: Standard output cannot be written.
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
  """Returns a message if characters were replaced since `prepare`, or None."""
  if not _replaced.count:
    return None
  return (
    f"{_replaced.count} characters are printed as '?', since standard output is"
    f" in {sys.stdout.encoding}; set PYTHONIOENCODING=utf-8 to print all"
  )


def _print(text: str, end: str) -> None:
  try:
    print(text, end=end, flush=True)
  except UnicodeEncodeError:
    # `prepare` has not configured this stream.
    encoding = sys.stdout.encoding or "ascii"
    text = text.encode(encoding, "replace").decode(encoding)
    print(text, end=end, flush=True)
