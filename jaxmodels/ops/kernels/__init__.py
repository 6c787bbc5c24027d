"""Pallas kernels for TPU: the scan of a matrix state through all chunks.

The mathematics inside the chunks is parallel and stays with XLA. A kernel
only takes the state from chunk to chunk: it stays in the chip's vector memory
for the whole sequence, and each chunk's factors are read, and the state that
enters it is written, exactly once. The gradient is the same scan in reverse
with the state's cotangent.

Inside the kernels states are [V, K], values first: decays of key channels
then lie along the lanes, and no matmul on the way from state to state needs a
transposed operand. Matmuls are float32 with float32 accumulation and
`Precision.HIGHEST`, which a TPU's matrix unit computes in six passes of
bfloat16: errors of the state would add up over the chunks.

For the delta rule the scan takes a chunk's writes as they depend on the state
(the WY form), not its transition [K, K]: that is never made, the writes come
out of the scan, and their triangular system is solved once instead of twice.

- On CPU the kernels are interpreted: slow, and for checking only. Inside
  `shard_map` the interpreter needs `check_vma=False`; a TPU does not.
- No chip has run them yet. That they compile for TPU v5e and v6e, one chip
  or the sequence sharded over four, is tested.
- `jit` cannot part them over several chips: there, call the op inside
  `shard_map`.
- They have gradients in reverse mode, of first order.
- float64 is for the interpreter; a TPU takes float32 states. Tokens in
  bfloat16 are widened before the scan.
"""

from jaxmodels.ops.kernels.scans import (
  DeltaFactors,
  scan_decayed,
  scan_delta,
)

__all__ = ["DeltaFactors", "scan_decayed", "scan_delta"]
