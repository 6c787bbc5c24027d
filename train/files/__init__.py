"""The files of a run directory: paths, lock, checkpoint folder, safe access."""

from train.files.write import (
  open_append,
  read,
  refuse_link,
  replace,
  replacing,
)

__all__ = ["open_append", "read", "refuse_link", "replace", "replacing"]
