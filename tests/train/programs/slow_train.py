"""`python -m train` with a quarter of a second between steps.

While the file that HOLD names exists, no step begins.
"""

import os
import sys
import time

from train import __main__ as command
from train.command import main_with_errors
from train.data.prefetch import ReadAhead

_next = ReadAhead.__next__


def _slow_next(self):
  time.sleep(0.25)
  while os.path.exists(os.environ.get("HOLD", "")):
    time.sleep(0.1)
  return _next(self)


if __name__ == "__main__":
  ReadAhead.__next__ = _slow_next
  sys.exit(main_with_errors(command._run))
