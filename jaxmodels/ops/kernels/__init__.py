"""Pallas kernels for TPU.

`selective` has the whole selective scan in one kernel. The rest of this page is
about `scans`: the scan of a matrix state through all chunks, for linear
attention and the delta rule.

XLA computes the parallel work inside the chunks. A kernel only takes the state
from chunk to chunk. The state stays in the chip's vector memory for the whole
sequence. The kernel reads each chunk's factors once, and writes the state
before each chunk once. The gradient is the same scan in reverse, with the
cotangent of the state.

Inside the kernels states are [V, K], values first. Decays of key channels then
run along the lanes, and no matmul between two states needs a transposed
operand. Matmuls are float32 with float32 accumulation and `Precision.HIGHEST`,
because errors of the state would add up over the chunks; a TPU's matrix unit
takes six passes of bfloat16 for each.

For the delta rule, the kernel takes the writes of a chunk as a function of the
state (the WY form), not the transition [K, K]. So no transition is built, the
scan returns the writes, and their triangular system is solved once instead of
twice.

- On CPU the kernels are interpreted, which is slow and only for checking.
  Inside `shard_map` the interpreter needs `check_vma=False`; a TPU does not.
- No chip has run the kernels yet. Tests compile them for TPU v5e and v6e, on
  one chip and with the sequence sharded over four.
- `jit` cannot split the kernels over several chips. The devices of the mesh in
  the context share the work of `selective`; call the other ops inside
  `shard_map` there.
- The kernels have first-order gradients, in reverse mode.
- float64 works only in the interpreter. A TPU takes float32 states, and tokens
  in bfloat16 are widened before the scan.
"""

from jaxmodels.ops.kernels.scans import (
  DeltaFactors,
  scan_decayed,
  scan_delta,
)
from jaxmodels.ops.kernels.selective import (
  fits_selective_scan,
  selective_scan,
)

__all__ = [
  "DeltaFactors",
  "fits_selective_scan",
  "scan_decayed",
  "scan_delta",
  "selective_scan",
]
