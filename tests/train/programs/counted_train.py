"""`python -m train` that logs the examples each process reads."""

import os
import sys

from train import __main__ as command
from train.command import main_with_errors
from train.data import Batches

_advance = Batches.advance


def _noted_advance(self):
  indices = _advance(self)
  # Validation takes one pass.
  if not self._one_pass:
    print(*indices, file=_log)
  return indices


if __name__ == "__main__":
  Batches.advance = _noted_advance
  with open(os.environ["READS"], "w") as _log:
    sys.exit(main_with_errors(command._run))
