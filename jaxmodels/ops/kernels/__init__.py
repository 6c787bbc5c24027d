"""Pallas kernels: for a TPU whole ops, for a Hopper GPU a walk.

For a TPU there is one kernel for the value and one for the gradient. `chunked`
makes those of a recurrence whose state is a matrix, from its function of one
chunk: of linear attention, the normalised one, the delta rule and DPLR.
`selective` has those of the selective scan. `gpu_walk` is for NVIDIA GPUs, and
says itself how it is checked. Of the kernels for a TPU:

- On CPU the kernels are interpreted, which is slow and only for checking.
  Inside `shard_map` the interpreter needs `check_vma=False`; a TPU does not.
- No chip has run the kernels yet. Tests compile them for TPU v5e and v6e, on
  one chip and with the sequence sharded over four.
- `jit` cannot split a kernel over several chips. So the devices of the mesh in
  the context share the rows of the batch and the heads or channels, as far as
  they divide.
- The kernels have first-order gradients, in reverse mode.
- float64 works only in the interpreter. A TPU takes float32 states, and tokens
  in bfloat16 are widened inside the kernel.
"""

from jaxmodels.ops.kernels.chunked import chunk_kernel, fits_chunk_kernel
from jaxmodels.ops.kernels.gpu_walk import fits_walk, walk_edits
from jaxmodels.ops.kernels.selective import (
  fits_selective_scan,
  selective_scan,
)

__all__ = [
  "chunk_kernel",
  "fits_chunk_kernel",
  "fits_selective_scan",
  "fits_walk",
  "selective_scan",
  "walk_edits",
]
