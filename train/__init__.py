"""The trainer: `python -m train --config=configs/NAME.py`."""

import os
import sys

if sys.argv[:1] == ["-m"]:
  # A command such as `python -m train.generate` starts here. Python looks in
  # the current directory before its own library, so a config called `json.py`
  # would be imported for `json`, and so would a file that somebody else put
  # there. From here on the standard library goes first.
  _library = os.path.dirname(os.__file__)
  _own = (_library, os.path.join(_library, "lib-dynload"))
  sys.path.sort(key=lambda folder: folder not in _own)

import glob

# Where libtpu is installed for compiling ahead of time and there is no chip,
# JAX looks for one all the same, prints what it lacks and may wait for it.
if not any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*"))):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
