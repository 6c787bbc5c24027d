"""`python -m train` that stops in the middle of writing a checkpoint.

It hangs when the third checkpoint is written but lacks its final name.
"""

import sys
import time

from train import __main__ as command
from train.checkpoint import Checkpoints
from train.command import main_with_errors

_add_checksums = Checkpoints._add_checksums


def _hold(self):
  if self._step >= 9:
    time.sleep(600)
  _add_checksums(self)


if __name__ == "__main__":
  Checkpoints._add_checksums = _hold
  sys.exit(main_with_errors(command._run))
