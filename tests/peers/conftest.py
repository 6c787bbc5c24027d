"""Set before a test imports triton, which reads it once."""

import os

# fla's kernels then run on a CPU, by NumPy.
os.environ.setdefault("TRITON_INTERPRET", "1")
