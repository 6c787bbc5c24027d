"""Paths without characters that libraries treat as special."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

# Absolute paths without special characters of globs, URLs or JSON.
_PLAIN = re.compile(r"/[A-Za-z0-9_./ +,=@:~-]*")
# Orbax reads /gs/bucket as gs://bucket.
_SCHEMES = re.compile(r"/+(gs|s3|az|hf)(/|$)")


def _is_plain(path: str) -> bool:
  return bool(_PLAIN.fullmatch(path)) and not _SCHEMES.match(path)


@contextlib.contextmanager
def plain_path(folder: str) -> Iterator[str]:
  """Provides a path of a folder without special characters.

  Orbax treats a path as a `glob` pattern, so it finds nothing in `run[1]`, and
  treats the first part of some paths as the scheme of a URL. For such paths
  this makes a symbolic link in the system's temporary folder.

  Args:
    folder: An absolute path; the folder may be missing.

  Yields:
    An absolute path of the same folder, valid inside the context.
  """
  if _is_plain(folder):
    yield folder
    return
  own = tempfile.gettempdir()
  place = own if _is_plain(own) else "/tmp"
  with tempfile.TemporaryDirectory(prefix="jaxmodels-", dir=place) as made:
    link = os.path.join(made, os.path.basename(made))
    os.symlink(folder, link, target_is_directory=True)
    yield link
