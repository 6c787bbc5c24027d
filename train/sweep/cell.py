"""`python -m train` as a child of a sweep: it ends when the sweep has ended.

A sweep that is killed cannot end its children, so each child reads a pipe that
the sweep holds open and never writes to. When the sweep has ended for any
reason, the read returns, and the child saves and ends as after SIGTERM.
"""

import os
import runpy
import signal
import threading


def _watch() -> None:
  os.read(0, 1)
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
  threading.Thread(target=_watch, name="sweep", daemon=True).start()
  runpy.run_module("train", run_name="__main__", alter_sys=True)
