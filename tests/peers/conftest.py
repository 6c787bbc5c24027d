"""Set before a test imports triton, which reads it once."""

import os

# fla's kernels then run on a CPU, by NumPy.
os.environ.setdefault("TRITON_INTERPRET", "1")
# fla compiles some of its activations where a file of it is imported.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
