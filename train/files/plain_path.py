"""Paths for libraries that read some characters of a path in their own way."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

# Absolute, of characters that mean nothing to a glob, a URL or JSON.
_PLAIN = re.compile(r"/[A-Za-z0-9_./ +,=@:~-]*")
# The checkpoint library takes /gs/bucket for gs://bucket.
_SCHEMES = re.compile(r"/+(gs|s3|az|hf)(/|$)")


def _is_plain(path: str) -> bool:
  return bool(_PLAIN.fullmatch(path)) and not _SCHEMES.match(path)


@contextlib.contextmanager
def plain_path(folder: str) -> Iterator[str]:
  """Gives a folder a path without special characters.

  Orbax treats a path as a pattern of `glob`, so that it finds nothing in
  `run[1]`, and the first part of some paths as the scheme of a URL. For such a
  path this makes a symbolic link in the system's folder for temporary files.

  Args:
    folder: Absolute; need not exist yet.

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
