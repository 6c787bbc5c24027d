"""Writes the files of a run directory, and nothing outside it.

A run directory may have been made by somebody else, with links in it that are
named as our files are. So a file is replaced by a new one of a random name.
"""

import os
import secrets

from train.errors import UserError


def replace(path: str, content: bytes) -> None:
  """Writes a file as a whole: there is the old one or the new one, never half.

  Args:
    path: The file. A link of this name is replaced, not followed.
    content: All of it.

  Raises:
    OSError: It cannot be written; the old file stays.
  """
  folder, name = os.path.split(path)
  temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
  descriptor = os.open(temporary, flags, 0o666)
  try:
    with open(descriptor, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(descriptor)
    os.rename(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def refuse_link(path: str) -> None:
  """Raises a UserError if a path is a link.

  Args:
    path: A file or a folder, which need not be there.
  """
  if os.path.islink(path):
    raise UserError(
      f"{path} is a link, and a run has all its files in its own directory:"
      " remove the link, or give another --workdir"
    )
