"""Chooses the form of an op, and its chunk size: the method "auto".

`AUTO` is the table of "auto", with a comment of measurements above each row:
- First the milliseconds on a CPU (two cores of an Intel Xeon) with B = 2, 4
  heads of 64 x 64 or 256 channels, float32, and 4,096 tokens: forward, then
  forward with gradient. Each is given for "recurrent" / "chunked" /
  "chunk_parallel". `benchmarks/ops.json` has all lengths.
- Then the cycles, in millions, that the compiler for a TPU v5e predicts for a
  gradient of 2 x 4,096 tokens and 8 heads of 128 x 128, by "chunked" /
  "chunk_parallel", and the temporary memory in MiB; then both by the kernels.
  No chip has run these programs.
- A GPU launches several kernels per step of a loop, and launches take most of
  its time (`benchmarks/NOTES.md` has the milliseconds of linear attention and
  the delta rule on an H200). So the form is the one with the fewest launches in
  a program compiled for an H100, unless it needs many times the memory
  (`benchmarks/GPU.md`): "chunk_parallel", which walks in blocks there, or on an
  H100 in one kernel where there is one and it fits (`fits_walk`), and for the
  selective scan "chunked". Other GPU forms were not compiled.
`benchmarks/NOTES.md` describes what else was tried.

"auto" on a TPU takes "pallas" where a row has `kernel` and the kernel fits
(`fits_chunk_kernel`, `fits_selective_scan`). It takes a fortieth of the cycles
of "chunked" for the selective scan, and a quarter to a half for the others, up
to three quarters on v5p and v6e (`benchmarks/TPU.md`). `engine.over_mesh`
splits it over the mesh of the context. It has gradients of the first order in
reverse mode only; for others name "chunked". No chip has run any of these
kernels.
"""

import math
from typing import Any, NamedTuple

from jaxmodels.ops.engine.checks import at_most
from jaxmodels.ops.engine.platform import platform

# Largest k (in elements) for which all chunks of linear attention fit in the
# cache of a CPU (measured; two cores).
CPU_CACHE_ELEMENTS = 2**18
# Largest key width for which the states stay in that cache between tokens.
NARROW_KEYS = 64


class Chunk(NamedTuple):
  """The default `chunk_size`, in tokens, by platform."""

  cpu: int = 64
  narrow: int = 32  # On a CPU, for keys up to NARROW_KEYS.
  tpu: int = 128  # Fills the matrix unit.
  gpu: int = 64
  pallas: int = 128  # The form "pallas", which only a TPU has.


class Row(NamedTuple):
  """The forms that "auto" takes for one kind of recurrence.

  Attributes:
    value: the form on a CPU without a gradient.
    narrow: in place of `value` for keys up to NARROW_KEYS; None for `value`.
    shared: in place of `narrow` where heads share keys; None for `narrow`.
    gradient: the form on a CPU with a gradient.
    cached: the largest k, in elements, for which the form with a gradient is
      "chunk_parallel", because all chunks stay in a CPU's cache.
    tpu: the form on a TPU.
    kernel: whether a TPU takes "pallas" in its place where the kernel fits.
    gpu: the form on a GPU, and on any other platform.
    chunk: the default chunk sizes.
  """

  value: str = "chunked"
  narrow: str | None = None
  shared: str | None = None
  gradient: str = "chunked"
  cached: int = 0
  tpu: str = "chunk_parallel"
  kernel: bool = False
  gpu: str = "chunk_parallel"
  chunk: Chunk = Chunk()


class Choice(NamedTuple):
  """The forms of "auto" and the default chunk sizes on the target platform.

  Attributes:
    value: the form without a gradient.
    gradient: the form with a gradient.
    chunk: the chunk size.
    pallas: the chunk size of the form "pallas".
  """

  value: str
  gradient: str
  chunk: int
  pallas: int = Chunk().pallas


def _same(size: int) -> Chunk:
  return Chunk(size, size, size, size, size)


# A GPU takes 0.6 to 0.9 of the time of chunks of 64, and less memory.
_HEAD = Chunk(gpu=128)
_PER_KEY = Chunk(cpu=32)
# A chunk of the delta rule takes more work than its tokens one by one.
# "chunk_parallel" would build the transitions [K, K] of all chunks, in 1.5 to 3
# times the time on a CPU. On a TPU with few narrow heads, "chunked" takes 1.5
# times the cycles of "chunk_parallel".
_DELTA = Row(
  narrow="recurrent",
  shared="chunked",
  tpu="chunked",
  kernel=True,
  chunk=_HEAD,
)
_DELTA_PER_KEY = _DELTA._replace(chunk=_PER_KEY, shared=None)

AUTO = {
  # Families of ops that users make.
  "default": Row(),
  # 22 / 21 / 31, 318 / 66 / 86; 4.2 / 3.7 and 0.2 / 48 MiB, kernel 0.9 and 33.
  "linear_attention": Row(
    cached=2 * CPU_CACHE_ELEMENTS, kernel=True, chunk=_HEAD
  ),
  # 24 / 25 / 68, 362 / 78 / 91; 5.5 / 5.1 and 0.3 / 147 MiB, kernel 2.2 and 33.
  # Heads that share keys, forward: 8 of 1, 4,096 tokens, 30 / 18; delta rule 36
  # / 26; 8 of 4, 32 / 27 and 36 / 36.
  "linear_attention, decay per head": Row(
    narrow="recurrent",
    shared="chunked",
    cached=CPU_CACHE_ELEMENTS,
    kernel=True,
    chunk=_HEAD,
  ),
  # 29 / 58 / 143, 376 / 221 / 238; 12.9 / 20.8 and 32 / 1,666 MiB, kernel 6.3
  # and 33.
  "linear_attention, decay per key": Row(
    narrow="recurrent",
    cached=CPU_CACHE_ELEMENTS // 2,
    tpu="chunked",
    kernel=True,
    chunk=_PER_KEY,
  ),
  # 28 / 30 / 90, 334 / 107 / 197.
  "delta_rule": _DELTA,
  # 32 / 31 / 73, 388 / 128 / 201; 9.0 / 11.3 and 1 / 547 MiB, kernel 4.0 and
  # 33.
  "delta_rule, decay per head": _DELTA,
  # 36 / 73 / 147, 427 / 341 / 605; 18.5 / 48.8 and 65 / 2,805 MiB, kernel 8.8
  # and 33.
  "delta_rule, decay per key": _DELTA_PER_KEY,
  # Like the delta rule; not measured without a decay or with one per head.
  "dplr_recurrence": _DELTA,
  "dplr_recurrence, decay per head": _DELTA,
  # 47 / 88 / 393, 496 / 468 / 688; 27.0 / 82.4 and 82 / 4,040 MiB, kernel 10.0
  # and 33.
  "dplr_recurrence, decay per key": _DELTA_PER_KEY,
  # 45 / 28 / 40, 913 / 119 / 127; 8.3 / 7.1 and 1 / 306 MiB, kernel 3.7 and 83.
  "normalized_linear_attention": Row(
    cached=2 * CPU_CACHE_ELEMENTS,
    kernel=True,
    chunk=_HEAD._replace(narrow=64),
  ),
  # Keys and values of one channel (RWKV-4), where scores [C, C] would cost more
  # than states. 256 channels, 1 x 2,048 tokens, in CPU time: 19 / 121 / 235, 96
  # / 604 / 637. 1,024 channels, 2 x 4,096 tokens on a TPU: "associative" 28 and
  # 1,551 MiB, "recurrent" 327 and 897, "chunk_parallel" 339 and 12,615.
  "normalized_linear_attention, one channel": Row(
    value="recurrent",
    gradient="recurrent",
    tpu="associative",
    gpu="associative",
  ),
  # With a decay per head and 3 levels, in CPU time because the machine was
  # busy: 183 / 52 / 129, 4,765 / 244 / 367, in chunks of 64. Gradients in
  # chunks of 32 and 128 take 268 and 291. With 14 levels, chunks of 32, 64 and
  # 128 take 1,032, 808 and 893, and "chunk_parallel" 1,240. No figure for a TPU
  # or a GPU.
  "log_linear_attention": Row(chunk=Chunk(narrow=64)),
  # In CPU time: 495 / 212 / 434, 2,749 / 658 / 828, in chunks of 32. Gradients
  # in chunks of 64 and 128 take 730 and 1,121. No figure for a TPU or a GPU.
  "mesa": Row(),
  # 4 / 14 / 9, 16 / 39 / 33: every state is an output, so a gradient stores
  # no further states. 21.9 / 6.4 and 33 / 276 MiB.
  "diagonal_recurrence": Row(
    value="recurrent", gradient="recurrent", chunk=_same(128)
  ),
  # 11 / 14 / 44, 17 / 23 / 70. No figure for a TPU.
  "dense_recurrence": Row(
    value="recurrent", gradient="recurrent", chunk=_same(16)
  ),
  # Of 4 channels to level 3, N = 84, one head, in CPU time because the machine
  # was busy: 3 / 2 / 2, 3 / 5 / 6. Of 8 channels, N = 584: 9 / 9 / 13, 12 / 25
  # / 33, in chunks of 64. No figure for a TPU or a GPU.
  "signature": Row(value="recurrent", gradient="recurrent", chunk=_same(16)),
  # 69 / 57 / 258, 451 / 406 / 1,010; 224.9 / 336.5 and 65 / 14,698 MiB, kernel
  # 4.9 and 0.4.
  "selective_scan": Row(
    tpu="chunked",
    kernel=True,
    gpu="chunked",
    chunk=_same(16)._replace(gpu=256, pallas=64),
  ),
  # A complex diagonal of 32 numbers per channel, in CPU time because the
  # machine was busy: 127 / 85 / 103, 888 / 297 / 234, in chunks of 32. Chunks
  # of 64 take 289 and 677. "chunk_parallel" stores the summaries of all chunks,
  # which are matrices if A is full. No figure for a TPU or a GPU.
  "state_space": Row(
    tpu="chunked", gpu="chunked", chunk=Chunk(cpu=32, tpu=64, gpu=64)
  ),
  # Filter 4 / - / 11, 28 / - / 76; smoother 8 / - / 16, 48 / - / 115. Cycles
  # per step by "recurrent" and "chunk_parallel": 47,432 and 2,591.
  "kalman": Row(value="recurrent", gradient="recurrent"),
}


def choose(
  kind: str | Row, keys: Any = None, values: Any = None, fits: bool = False
) -> Choice:
  """The choice of a row on the target platform.

  Args:
    kind: a row, or its name in `AUTO`.
    keys: k [..., h, K], if the row depends on the width or number of keys.
    values: v [..., H, V], of which H / h heads share each head of k.
    fits: whether the kernel takes the tokens.
  """
  row = AUTO[kind] if isinstance(kind, str) else kind
  name = platform()
  if name != "cpu":
    form, chunk = (
      (row.tpu, row.chunk.tpu) if name == "tpu" else (row.gpu, row.chunk.gpu)
    )
    if name == "tpu" and row.kernel and fits:
      form, chunk = "pallas", row.chunk.pallas
    return Choice(form, form, chunk, row.chunk.pallas)
  narrow = keys is not None and keys.shape[-1] <= NARROW_KEYS
  value = row.value
  if narrow and row.narrow:
    value = (_are_shared(keys, values) and row.shared) or row.narrow
  cached = keys is not None and at_most(_elements(keys, values), row.cached)
  return Choice(
    value=value,
    gradient="chunk_parallel" if cached else row.gradient,
    chunk=row.chunk.narrow if narrow else row.chunk.cpu,
    pallas=row.chunk.pallas,
  )


def _are_shared(keys, values):
  """Whether several heads of values read the same keys."""
  return values is not None and values.shape[-2] != keys.shape[-2]


def _elements(keys, values):
  """Elements of k once its heads are repeated to those of v."""
  lead = keys.shape[:-1] if values is None else values.shape[:-1]
  return math.prod((*lead, keys.shape[-1]))
