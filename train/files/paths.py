"""Expands and checks the local paths that a user gives."""

import errno
import os
import re
import stat

from train import files
from train.errors import UserError, is_disk_full, reason, shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local(flag: str, path: str) -> str:
  """Returns a path with `~` expanded.

  Args:
    flag: The flag to name in errors, such as "--workdir".
    path: The path as the user wrote it.

  Raises:
    UserError: The path is empty, not UTF-8, too long, names an unknown user,
      or is an address such as "gs://bucket/run".
  """
  if not path:
    raise UserError(f"{flag} is empty, but must be a path")
  if _SCHEME.match(path):
    raise UserError(
      f"{flag}={path} is not a local path: mount the storage, and give the path"
      " of the mount"
    )
  expanded = os.path.expanduser(path)
  if path.startswith("~") and expanded == path:
    raise UserError(
      f"{flag}={path}: there is no such user; for a file name that begins with"
      f" ~, write ./{path}"
    )
  try:
    expanded.encode()
    os.stat(expanded)
  except ValueError as error:
    # The path has a lone surrogate or a null byte.
    raise UserError(f"{flag}={shown(path)} is not text in UTF-8") from error
  except OSError as error:
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
      raise UserError(f"{flag}={path}: {reason(error)}") from error
  return expanded


def check_output(flag: str, path: str) -> str:
  """Checks early that a file can be written; returns its expanded path.

  Args:
    flag: The flag to name in errors.
    path: The path as the user wrote it. Its folders may be missing.

  Raises:
    UserError: The file cannot be written.
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
  """Writes a file atomically: on failure the old file stays.

  Args:
    flag: The flag to name in errors.
    path: The file; missing folders are created.
    content: The new content.
    follow: Whether to write into an existing pipe or device, also through a
      link. Otherwise a new file replaces it.

  Raises:
    UserError: The file cannot be written.
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


def make_folder(flag: str, folder: str) -> str:
  """Makes the folder that a flag names, if it is missing, and returns its path.

  Args:
    flag: The flag, for the message of an error.
    folder: The folder, as the user named it.

  Raises:
    UserError: It is not on this machine, or cannot be made.
    OSError: The disk is full.
  """
  folder = local(flag, folder)
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    if is_disk_full(error):
      raise
    raise UserError(
      f"cannot write to {flag}={folder}: {error.strerror}"
    ) from error
  return folder
