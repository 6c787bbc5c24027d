"""Writes the files of a run directory, and nothing outside it.

Somebody else may have made the run directory, with links that have the names of
our files. So a new file is written under a random name and then renamed, and a
file is opened by its name only if it is a regular file.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from train.errors import UserError


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
  """Opens a new file, which takes the name `path` when the block has ended.

  An error inside the block, or the end of the process, leaves the old file.

  Args:
    path: The file. A link of this name is replaced, not followed.

  Raises:
    OSError: It cannot be written; the old file stays.
  """
  folder, name = os.path.split(path)
  temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
  descriptor = os.open(temporary, flags, 0o666)
  try:
    with open(descriptor, "wb") as file:
      yield file
      file.flush()
      os.fsync(descriptor)
    os.rename(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def replace(path: str, content: bytes) -> None:
  """Replaces a file atomically.

  Args:
    path: The file. A link of this name is replaced, not followed.
    content: The new content.

  Raises:
    OSError: The file cannot be written; the old file stays.
  """
  with replacing(path) as file:
    file.write(content)


def open_append(path: str) -> BinaryIO:
  """Opens a file for appending; creates it if it is missing.

  Args:
    path: The file.

  Raises:
    UserError: The path is a link, or not a regular file.
    OSError: The file cannot be opened.
  """
  refuse_link(path)
  # O_NONBLOCK, since opening a pipe would wait for a reader.
  flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
  descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
  _require_file(descriptor, path)
  return open(descriptor, "ab")


def read(path: str, largest: int | None = None) -> bytes:
  """Reads a file, which must not be a link, a pipe or a device.

  Args:
    path: The file.
    largest: Limit of the file's size in bytes; None for no limit.

  Raises:
    UserError: The path is not a regular file, or the file is too large.
    OSError: The file cannot be read.
  """
  refuse_link(path)
  descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
  _require_file(descriptor, path)
  with open(descriptor, "rb") as file:
    content = file.read() if largest is None else file.read(largest + 1)
  if largest is not None and len(content) > largest:
    raise UserError(
      f"{path} has more than {largest} bytes: no run writes such a file"
    )
  return content


def _require_file(descriptor: int, path: str) -> None:
  """Closes a descriptor and raises a UserError unless it is a regular file."""
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise UserError(f"{path} is not a file: remove it")


def refuse_link(path: str, *, inside: bool = False) -> None:
  """Raises a UserError if a path is a link.

  Args:
    path: A file or a folder; it may be missing.
    inside: Whether to refuse links inside the folder, too.
  """
  if os.path.islink(path):
    raise UserError(
      f"{path} is a link, but a run keeps all files in its own directory:"
      " remove the link, or give another --workdir"
    )
  if inside and os.path.isdir(path):
    for name in os.listdir(path):
      refuse_link(os.path.join(path, name), inside=True)
