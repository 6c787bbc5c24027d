"""Paths that a user types: local ones, expanded and checked early."""

import errno
import os
import re
import stat

from train import files
from train.errors import UserError, reason, shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local(flag: str, path: str) -> str:
  """Returns a path with `~` expanded.

  Args:
    flag: What an error names, such as "--workdir".
    path: As the user wrote it.

  Raises:
    UserError: It can be no path here: empty, not text, too long, of a user who
      is not there, or an address such as "gs://bucket/run".
  """
  if not path:
    raise UserError(f"{flag} is empty, but must be a path")
  if _SCHEME.match(path):
    raise UserError(
      f"{flag}={path} is no local path: mount the storage, and give the path"
      " where it is mounted"
    )
  expanded = os.path.expanduser(path)
  if path.startswith("~") and expanded == path:
    raise UserError(
      f"{flag}={path}: there is no user of that name; write ./{path} for a name"
      " that begins with ~"
    )
  try:
    expanded.encode()
    os.stat(expanded)
  except ValueError as error:
    # Of a lone surrogate, or an embedded null byte.
    raise UserError(f"{flag}={shown(path)} is not text in UTF-8") from error
  except OSError as error:
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
      raise UserError(f"{flag}={path}: {reason(error)}") from error
  return expanded


def check_output(flag: str, path: str) -> str:
  """Returns the path of a file to write, before there is anything to write.

  Args:
    flag: What an error names.
    path: As the user wrote it. Folders that are missing are made later.

  Raises:
    UserError: No file can be written there, as far as can be seen by now.
  """
  path = local(flag, path)
  if os.path.isdir(path):
    raise UserError(f"{flag}={path} is a directory, but must be a file")
  folder = os.path.dirname(path) or "."
  if path.endswith(os.sep):
    raise UserError(f"{flag}={path} must be a file, not a directory")
  while not os.path.lexists(folder) and os.path.dirname(folder):
    folder = os.path.dirname(folder)
  if os.path.lexists(folder) and not os.path.isdir(folder):
    raise UserError(f"{flag}={path}: {folder} is not a directory")
  target = path if os.path.exists(path) else folder
  if os.path.exists(target) and not os.access(target, os.W_OK):
    raise UserError(f"cannot write to {flag}={path}: {target} is read-only")
  return path


def write(flag: str, path: str, content: bytes, *, follow: bool = True) -> None:
  """Writes a file as a whole, or leaves the old one as it is.

  Args:
    flag: What an error names.
    path: The file; folders that are missing are made.
    content: All of it.
    follow: Whether a pipe or a device, also one that a link leads to, is
      written to. Else a file takes its place.

  Raises:
    UserError: It cannot be written.
  """
  folder = os.path.dirname(path) or "."
  try:
    is_there = follow and os.path.exists(path)
    if is_there and not stat.S_ISREG(os.stat(path).st_mode):
      with open(path, "wb") as file:
        file.write(content)
      return
    os.makedirs(folder, exist_ok=True)
    files.replace(path, content)
  except OSError as error:
    raise UserError(
      f"cannot write to {flag}={path}: {reason(error)}"
    ) from error
