"""What "auto" takes: one table, and the measurement behind each row.

Milliseconds are of a CPU (two cores of an Intel Xeon), B = 2, 4 heads of
64 x 64 or 256 channels, float32, 4,096 tokens: forward, then with its
gradient, by "recurrent" / "chunked" / "chunk_parallel". `benchmarks/ops.json`
has all lengths. Cycles are millions that the compiler for a TPU v5e expects of
a gradient of 2 x 4,096 tokens, 8 heads of 128 x 128, by "chunked" /
"chunk_parallel", with the temporary memory; no chip has run them. Nothing is
measured on a GPU: "chunk_parallel", with many products at once, is a guess.
`benchmarks/NOTES.md` says what else was tried.
"""

import math
from typing import Any, NamedTuple

from jaxmodels.ops.engine.exporting import at_most
from jaxmodels.ops.engine.platform import platform

__all__ = ["AUTO", "Choice", "Row", "choose"]

# Largest k (in elements) for which all chunks of linear attention fit in the
# cache of a CPU (measured; two cores).
CPU_CACHE_ELEMENTS = 2**18
# Keys up to here make states that stay in it from token to token.
NARROW_KEYS = 64


class Chunk(NamedTuple):
  """Tokens per chunk where no `chunk_size` is given, by platform."""

  cpu: int = 64
  narrow: int = 32  # On a CPU, for keys up to NARROW_KEYS.
  tpu: int = 128  # Fills its unit.
  gpu: int = 64


class Row(NamedTuple):
  """What "auto" takes for one kind of recurrence.

  Attributes:
    value: on a CPU, where only the value is asked.
    narrow: the same for keys up to NARROW_KEYS; None for `value`.
    gradient: on a CPU, where a gradient is asked.
    cached: elements of k up to which that is "chunk_parallel", because all
      chunks stay in a CPU's cache.
    tpu: on a TPU.
    gpu: on a GPU, or whatever else there is.
    chunk: tokens per chunk.
  """

  value: str = "chunked"
  narrow: str | None = None
  gradient: str = "chunked"
  cached: int = 0
  tpu: str = "chunk_parallel"
  gpu: str = "chunk_parallel"
  chunk: Chunk = Chunk()


class Choice(NamedTuple):
  """The forms and the chunk size for the platform that is traced for."""

  value: str
  gradient: str
  chunk: int


def _same(size: int) -> Chunk:
  return Chunk(size, size, size, size)


_PER_KEY = Chunk(cpu=32)
# A chunk of the delta rule has more to do than its tokens one by one. All
# chunks at once would build their transitions [K, K]: 1.5 to 3 times the time
# on a CPU. With few narrow heads a TPU takes 1.5 times as many cycles so.
_DELTA = Row(narrow="recurrent", tpu="chunked")
_DELTA_PER_KEY = _DELTA._replace(chunk=_PER_KEY)

AUTO = {
  # A family of one's own.
  "default": Row(),
  # 22 / 21 / 31, 318 / 66 / 86; 4.2 / 3.7 and 0.2 / 48 MiB.
  "linear_attention": Row(cached=2 * CPU_CACHE_ELEMENTS),
  # 24 / 25 / 68, 362 / 78 / 91; 5.5 / 5.1 and 0.3 / 147 MiB.
  "linear_attention, decay per head": Row(
    narrow="recurrent", cached=CPU_CACHE_ELEMENTS
  ),
  # 29 / 58 / 143, 376 / 221 / 238; 14.6 / 20.8 and 33 / 1,666 MiB.
  "linear_attention, decay per key": Row(
    narrow="recurrent",
    cached=CPU_CACHE_ELEMENTS // 2,
    tpu="chunked",
    chunk=_PER_KEY,
  ),
  # 28 / 30 / 90, 334 / 107 / 197.
  "delta_rule": _DELTA,
  # 32 / 31 / 73, 388 / 128 / 201; 9.0 / 11.3 and 1 / 547 MiB.
  "delta_rule, decay per head": _DELTA,
  # 36 / 73 / 147, 427 / 341 / 605; 22.9 / 48.8 and 65 / 2,805 MiB.
  "delta_rule, decay per key": _DELTA_PER_KEY,
  # As the delta rule, of which it has one more system; not measured.
  "dplr_recurrence": _DELTA,
  "dplr_recurrence, decay per head": _DELTA,
  # 47 / 88 / 393, 496 / 468 / 688; 33.8 / 82.4 and 100 / 4,040 MiB.
  "dplr_recurrence, decay per key": _DELTA_PER_KEY,
  # 45 / 28 / 40, 913 / 119 / 127; 8.8 / 7.9 and 1 / 375 MiB.
  "normalized_linear_attention": Row(
    cached=2 * CPU_CACHE_ELEMENTS, chunk=Chunk(narrow=64)
  ),
  # 4 / 14 / 9, 16 / 39 / 33: every state is an output, so a gradient stores
  # no others. 21.9 / 6.4 and 33 / 276 MiB.
  "diagonal_recurrence": Row(
    value="recurrent", gradient="recurrent", chunk=_same(128)
  ),
  # 11 / 14 / 44, 17 / 23 / 70. No figure of a TPU.
  "dense_recurrence": Row(
    value="recurrent", gradient="recurrent", chunk=_same(16)
  ),
  # 69 / 57 / 258, 451 / 406 / 1,010; 224.9 / 336.5 and 65 / 14,698 MiB.
  "selective_scan": Row(tpu="chunked", gpu="chunked", chunk=_same(16)),
  # Filter 4 / - / 11, 28 / - / 76; smoother 8 / - / 16, 48 / - / 115. Cycles
  # per step by "recurrent" and "chunk_parallel": 47,432 and 2,591.
  "kalman": Row(value="recurrent", gradient="recurrent"),
}


def choose(kind: str | Row, keys: Any = None, values: Any = None) -> Choice:
  """The choice of a row for this platform.

  Args:
    kind: a row, or its name in `AUTO`.
    keys: k [..., G, K], if the row asks how wide its keys are, or how many.
    values: v [..., H, V], whose heads may share those of k.
  """
  row = AUTO[kind] if isinstance(kind, str) else kind
  name = platform()
  if name != "cpu":
    form, chunk = (
      (row.tpu, row.chunk.tpu) if name == "tpu" else (row.gpu, row.chunk.gpu)
    )
    return Choice(form, form, chunk)
  narrow = keys is not None and keys.shape[-1] <= NARROW_KEYS
  cached = keys is not None and at_most(_elements(keys, values), row.cached)
  return Choice(
    value=row.narrow if narrow and row.narrow else row.value,
    gradient="chunk_parallel" if cached else row.gradient,
    chunk=row.chunk.narrow if narrow else row.chunk.cpu,
  )


def _elements(keys, values):
  """Elements of k, if each head of v had its own."""
  lead = keys.shape[:-1] if values is None else values.shape[:-1]
  return math.prod((*lead, keys.shape[-1]))
