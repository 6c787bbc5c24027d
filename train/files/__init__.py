"""A run directory: its paths, lock and checkpoint folder, read with care."""

from train.files.write import (
  open_append,
  read,
  refuse_link,
  replace,
  replacing,
)

__all__ = ["open_append", "read", "refuse_link", "replace", "replacing"]
