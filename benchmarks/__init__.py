"""Measures time, memory and flops of every op and model.

Run from the root of the checkout; `benchmarks/README.md` lists the commands.
"""

import glob
import os

# As in `train`: without a chip JAX must not look for one, or the compilers for
# chips that are not there (libtpu, the CUDA plugin) print what they lack.
if not any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*"))):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
