"""Which form an op takes: `method` and `chunk_size`, checked and chosen.

`AUTO` is the table of "auto", with the measurement behind each row.
Milliseconds are of a CPU (two cores of an Intel Xeon), B = 2, 4 heads of
64 x 64 or 256 channels, float32, 4,096 tokens: forward, then with its
gradient, by "recurrent" / "chunked" / "chunk_parallel". `benchmarks/ops.json`
has all lengths. Cycles are millions that the compiler for a TPU v5e expects of
a gradient of 2 x 4,096 tokens, 8 heads of 128 x 128, by "chunked" /
"chunk_parallel", with the temporary memory; no chip has run them. Nothing is
measured on a GPU: "chunk_parallel", with many products at once, is a guess.
`benchmarks/NOTES.md` says what else was tried.

"auto" never takes "pallas", which is to be asked for: `jit` cannot split a
kernel over several chips, and no chip has run it yet. By the bytes that XLA
counts for a gradient on a TPU v5e, "pallas" moves less than "chunk_parallel"
for wide heads of the delta rule; but "chunked", which "auto" is there, needs a
fourteenth of the memory of either.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import recurrence
from jaxmodels.ops.engine.checks import (
  at_most,
  is_open,
  require,
  require_length,
  runs,
)
from jaxmodels.ops.engine.gradients import with_gradient_of
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.recurrence import Family, Method

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


METHODS = ("auto", "recurrent", "associative", "chunked", "chunk_parallel")


class Options(NamedTuple):
  """How a call runs its recurrence: the options that ops with a state share."""

  reverse: bool = False
  method: Method = "auto"
  chunk_size: int | None = None
  axis_name: str | None = None


def run(
  op: str,
  family: Family,
  tokens: Any,
  state: Any,
  segment_ids: jax.Array | None,
  options: Options,
  choice: Choice,
  dtype: Any = None,
) -> tuple[jax.Array, Any]:
  """Runs a family in the form that `resolve` names.

  Args:
    op: the op, for messages.
    family: the recurrence; without arrays in it if the two forms of `choice`
      differ.
    tokens: as for `recurrence.run`.
    state: as for `recurrence.run`.
    segment_ids: as for `recurrence.run`.
    options: those of the call.
    choice: what "auto" takes, and the chunk size where none is given.
    dtype: as for `recurrence.run`.
  """
  length = jax.tree.leaves(tokens)[0].shape[1]
  _check_family(op, family, options)
  (value, size), (gradient, _) = (
    resolve(op, options, length, auto, choice.chunk)
    for auto in _forms(family, choice, length)
  )
  if family.neutral is None and value == "chunked":
    require_length(op, length, 'method "chunked"', '"auto" or "recurrent"')

  def in_form(method):
    def form(tokens, state, segment_ids):
      return recurrence.run(
        family,
        tokens,
        state,
        segment_ids=segment_ids,
        reverse=options.reverse,
        method=method,
        chunk_size=size,
        axis_name=options.axis_name,
        dtype=dtype,
      )

    return form

  program = in_form(gradient)
  if value != gradient:
    program = with_gradient_of(in_form(value), program)
  if not runs():
    shapes = jax.eval_shape(program, tokens, state, segment_ids)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return program(tokens, state, segment_ids)


def resolve(
  op: str, options: Options, length: Any, auto: str, default: int
) -> tuple[str, int]:
  """The method and chunk size of a call.

  Chunks are no longer than the sequence, rounded up to a power of two.

  Args:
    op: the op, for messages.
    options: those of the call.
    length: L.
    auto: what "auto" takes for more than one token; one runs as "recurrent".
    default: the chunk size where none is given.
  """
  method: str = options.method
  size = default if options.chunk_size is None else options.chunk_size
  require(
    method in (*METHODS, "pallas"),
    f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}",
  )
  require(
    size > 0 and size & (size - 1) == 0,
    f"{op}: chunk_size must be a power of two, got {size}",
  )
  if method == "auto":
    method = "recurrent" if length == 1 else auto
  if method == "associative":
    instead = '"recurrent", "chunked" or "chunk_parallel"'
    require_length(op, length, 'method "associative"', instead)
  if is_open(length):
    return method, size
  return method, min(size, 1 << max(length - 1, 0).bit_length())


def _forms(family: Family, choice: Choice, length: Any) -> tuple[str, str]:
  """What "auto" takes for a value and for a gradient."""
  if family.composes:
    return choice.value, choice.gradient
  # Without a neutral token the last chunk is shorter, by an unknown number.
  by_token = is_open(length) and family.neutral is None
  return ("recurrent",) * 2 if by_token else ("chunked",) * 2


def _check_family(op: str, family: Family, options: Options) -> None:
  """Checks that the family has the form that is asked for."""
  method = options.method
  if method == "pallas":
    _check_kernel(op, family.kernel is not None)
  if family.composes:
    return
  why = "its family has no summaries of spans, which compose"
  require(
    method in ("auto", "recurrent", "chunked"),
    f'{op}: method must be "auto", "recurrent" or "chunked", got {method!r}: '
    f"{why}",
  )
  require(
    options.axis_name is None,
    f"{op}: axis_name must be None, got {options.axis_name!r}: {why}, so its "
    "sequence cannot be sharded",
  )


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
