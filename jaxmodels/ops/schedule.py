"""Which form an op takes: `method` and `chunk_size`, checked and chosen.

"auto" never takes "pallas", which is to be asked for. Of programs compiled
for a TPU v5e (L = 4,096, H = 8, C = 128, a decay a head) XLA counts as bytes
accessed by a gradient, "pallas" and "parallel":

  delta rule        B = 2, K = V = 128    6.4 GB and 9.0 GB
  delta rule        B = 1, K = V = 64     3.7 GB and 3.3 GB
  linear attention  B = 2, K = V = 128    2.1 GB and 2.1 GB

(a loop's body counts once: with all its steps "parallel" moves 0.4 GB more in
the last row, half of it within the chip). So the kernel pays for wide heads
of the delta rule, but `jit` cannot part it over several chips, and no chip
has run it yet.
"""

from jaxmodels.ops.checks import require
from jaxmodels.ops.platform import platform

# Numbers of k whose chunks, of linear attention, stay in a CPU's cache all at
# once (measured; two cores).
CACHED = 2**19
METHODS = ("auto", "recurrent", "associative", "chunked", "parallel")


def choose(
  op: str,
  method: str,
  chunk_size: int | None,
  length: int,
  default: int,
  kernel: bool = False,
  auto: tuple[str, str] = ("chunked", "parallel"),
) -> tuple[str, int]:
  """The method and chunk size of a call.

  "auto" takes "recurrent" for a single token, else, unless an op does better
  otherwise, "chunked" on CPU, where chunk after chunk stays in the cache, and
  "parallel" on accelerators. Chunks are no longer than the sequence, rounded
  up to a power of two.

  Args:
    op: the op, for messages.
    method: as the op got it.
    chunk_size: as the op got it, a power of two or None.
    length: L.
    default: the chunk size where none is given.
    kernel: whether the op has a kernel.
    auto: what "auto" takes on CPU, and elsewhere.
  """
  if method == "pallas":
    _check_kernel(op, kernel)
  require(
    method in (*METHODS, "pallas"),
    f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}",
  )
  size = default if chunk_size is None else chunk_size
  require(
    size > 0 and size & (size - 1) == 0,
    f"{op}: chunk_size must be a power of two, got {chunk_size}",
  )
  if method == "auto":
    if length == 1:
      method = "recurrent"
    else:
      on_cpu, elsewhere = auto
      method = on_cpu if platform() == "cpu" else elsewhere
  return method, min(size, 1 << max(length - 1, 0).bit_length())


def _check_kernel(op: str, kernel: bool) -> None:
  """A kernel is there, and something that runs it."""
  require(
    kernel, f'{op}: method "pallas" has no kernel for this op; use "auto"'
  )
  name = platform()
  require(
    name in ("tpu", "cpu"),
    f'{op}: method "pallas" needs a TPU, or a CPU that interprets it, got '
    f'{name}; use "auto"',
  )


def default_chunk_size() -> int:
  """Tokens a chunk for matrix states: 64, and 128 to fill a TPU's unit."""
  return 128 if platform() == "tpu" else 64
