"""`python -m train` as a child of a sweep: it ends when the sweep has ended.

A sweep that is killed cannot end its children, so each child reads a pipe that
the sweep holds open and never writes to. When the sweep has ended for any
reason, the read returns, and the child saves and ends as after SIGTERM.
"""

import os
import runpy
import signal
import threading

from train.sweep.pool import CORES


def _take_cores() -> None:
  """Keeps to the cores that the sweep has given, before XLA counts them."""
  cores = os.environ.pop(CORES, "")
  if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))


def _watch() -> None:
  os.read(0, 1)
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
  _take_cores()
  threading.Thread(target=_watch, name="sweep", daemon=True).start()
  runpy.run_module("train", run_name="__main__", alter_sys=True)
