"""The trainer: `python -m train --config=configs/NAME.py`."""

import glob
import os

# Where libtpu is installed for compiling ahead of time and there is no chip,
# JAX looks for one all the same, prints what it lacks and may wait for it.
if not any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*"))):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
