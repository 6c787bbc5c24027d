"""`python -m train` that logs the examples each process reads."""

import os
import sys

from tests.train import tiny
from train import __main__ as command
from train.command import main_with_errors
from train.data import Batches

_next = Batches.__next__
_read = tiny.Rows.__getitem__
_inside = False


def _noted_next(self):
  global _inside
  _inside = self._shuffle
  batch = _next(self)
  if self._shuffle:
    print(file=_log)
  _inside = False
  return batch


def _noted_read(self, index):
  if _inside:
    print(index, end=" ", file=_log)
  return _read(self, index)


if __name__ == "__main__":
  Batches.__next__ = _noted_next
  tiny.Rows.__getitem__ = _noted_read
  with open(os.environ["READS"], "w") as _log:
    sys.exit(main_with_errors(command._run))
