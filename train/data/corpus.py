"""Finds the files of a text corpus and divides them into splits."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
import pathlib
import stat
import sysconfig
from collections.abc import Iterator

# Excluded from the standard library's sources: installed packages, tests (some
# distributions ship none) and files generated when Python was built.
_NOT_LIBRARY = frozenset(
  ("site-packages", "dist-packages", "test", "tests", "idle_test")
)
_BUILT = ("_sysconfigdata*", "config-*")


@dataclasses.dataclass(frozen=True)
class Document:
  """A file, or a part of a file, that a model reads as one document."""

  name: str
  path: pathlib.Path
  start: int
  stop: int

  def read(self) -> bytes:
    """Returns the bytes; raises a `ValueError` if they cannot be read."""
    try:
      # If the file was replaced by a pipe, opening must not wait for a writer.
      descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
      with open(descriptor, "rb") as file:
        file.seek(self.start)
        content = file.read(self.size)
    except OSError as error:
      raise _unreadable(self.path, error) from error
    if len(content) != self.size:
      raise ValueError(
        f"{str(self.path)!r} became shorter while it was read: start again when"
        " nothing writes to it"
      )
    return content

  @property
  def size(self) -> int:
    """Size in bytes."""
    return self.stop - self.start


def find_documents(path: str, pattern: str) -> list[Document]:
  """Lists the documents of a corpus, ordered by a hash of their names.

  Args:
    path: a file, a folder, or "" for the sources of Python's standard library.
    pattern: the file names to read, such as "*.txt". Hidden files, empty files,
      `__pycache__`, pipes, sockets and devices are always skipped. Links to
      files are followed, links to folders are not.

  Returns:
    At least one document. The hash is that of the path inside the folder, so
    that neighbours are unrelated and the order is the same on every machine.

  Raises:
    ValueError: if `path` does not exist, if it holds no documents, or if a file
      or folder in it cannot be read.
  """
  # `pathlib.Path.expanduser` raises a RuntimeError for an unknown user.
  root = pathlib.Path(os.path.expanduser(path or sysconfig.get_path("stdlib")))
  if root.is_file():
    documents = [Document(root.name, root, 0, root.stat().st_size)]
  elif root.is_dir():
    documents = list(_walk(root, pattern, library=not path))
  else:
    raise ValueError(
      f"there is no file or folder {str(root)!r}: set the text data's `path` to"
      " a text file or a folder of text files"
    )
  documents = [document for document in documents if document.size]
  if not documents:
    raise ValueError(
      f"{str(root)!r} holds no non-empty file that matches {pattern!r}: change"
      " the path or the pattern"
    )
  return sorted(documents, key=lambda item: (_fraction(item), item.name))


def divide(
  documents: list[Document], held_out: float, held_out_bytes: int
) -> dict[str, list[Document]]:
  """Divides documents into "train" and "validation".

  A document is held out if the hash of its name lies in the first `held_out` of
  the range of hashes, so adding or removing a document moves no other document.
  Validation keeps the first `held_out_bytes` bytes of the held-out documents.
  The rest goes to neither split, so that this limit does not change the
  training data. If a split would be empty, it gets the nearest document. A
  single document is cut: its tail is held out.

  Args:
    documents: documents in the order of `find_documents`.
    held_out: the fraction to hold out, between 0 and 1.
    held_out_bytes: the largest number of bytes to hold out.

  Returns:
    The documents of each split; no split is empty.

  Raises:
    ValueError: if the only document has one byte.
  """
  if len(documents) == 1:
    return _cut(documents[0], held_out, held_out_bytes)
  held = sum(_fraction(document) < held_out for document in documents)
  held = min(max(held, 1), len(documents) - 1)
  validation = []
  left = held_out_bytes
  for document in documents[:held]:
    if not left:
      break
    stop = min(document.stop, left)
    validation.append(dataclasses.replace(document, stop=stop))
    left -= stop
  return {"train": documents[held:], "validation": validation}


def _cut(
  document: Document, held_out: float, held_out_bytes: int
) -> dict[str, list[Document]]:
  if document.size < 2:
    raise ValueError(
      f"{str(document.path)!r} holds one byte, which cannot be split into"
      " training and validation: set the text data's `path` to more text"
    )
  tail = min(max(round(document.size * held_out), 1), held_out_bytes)
  edge = document.stop - min(tail, document.size - 1)
  return {
    "train": [dataclasses.replace(document, stop=edge)],
    "validation": [dataclasses.replace(document, start=edge)],
  }


def _fraction(document: Document) -> float:
  # A file name may hold bytes that are not UTF-8; the hash includes them.
  name = document.name.encode("utf-8", "surrogateescape")
  digest = hashlib.blake2b(name, digest_size=6).digest()
  return int.from_bytes(digest, "big") / 2**48


def _walk(
  root: pathlib.Path, pattern: str, *, library: bool
) -> Iterator[Document]:
  """Yields the files in `root`, named by their relative paths with slashes."""

  def fail(error: OSError) -> None:
    raise _unreadable(error.filename, error) from error

  for folder, inner, files in os.walk(root, onerror=fail):
    inner[:] = [name for name in inner if _wanted(name, library)]
    for name in files:
      if (
        fnmatch.fnmatchcase(name, pattern)
        and _wanted(name, library)
        and (name.endswith(".py") or not library)
      ):
        path = pathlib.Path(folder, name)
        try:
          found = path.stat()
        except OSError as error:
          raise _unreadable(path, error) from error
        if stat.S_ISREG(found.st_mode):
          inside = path.relative_to(root).as_posix()
          yield Document(inside, path, 0, found.st_size)


def _unreadable(path: object, error: OSError) -> ValueError:
  """Returns an error that names the path, the reason and the fix."""
  hint = "make it readable, remove it, or exclude it with `pattern`"
  if isinstance(path, str) and os.path.isdir(path):
    hint = "make it readable, or move it out of the text data's `path`"
  elif os.path.islink(str(path)):
    hint = "fix the link, remove it, or exclude it with `pattern`"
  return ValueError(f"cannot read {str(path)!r} ({error.strerror}): {hint}")


def _wanted(name: str, library: bool) -> bool:
  if name.startswith(".") or name == "__pycache__":
    return False
  built = any(fnmatch.fnmatchcase(name, pattern) for pattern in _BUILT)
  return not library or (name not in _NOT_LIBRARY and not built)
