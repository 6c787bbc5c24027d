"""Which form an op takes: `method` and `chunk_size`, checked and chosen.

"auto" never takes "pallas", which is to be asked for: `jit` cannot part a
kernel over several chips, and no chip has run them yet. By the bytes that XLA
counts for a gradient on a TPU v5e "pallas" moves less than "chunk_parallel" for
wide heads of the delta rule (benchmarks/NOTES.md); but "chunked", which "auto"
is there, needs a fourteenth of the memory of either.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import recurrence
from jaxmodels.ops.engine.checks import require, runs
from jaxmodels.ops.engine.exporting import is_open, require_length
from jaxmodels.ops.engine.gradients import with_gradient_of
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.recurrence import Family

# Largest k (in elements) for which all chunks of linear attention fit in the
# cache of a CPU (measured; two cores).
CPU_CACHE_ELEMENTS = 2**18
# Keys up to here make states that stay in it from token to token.
NARROW_KEYS = 64
METHODS = ("auto", "recurrent", "associative", "chunked", "chunk_parallel")


def run(
  op: str,
  family: Family,
  tokens: Any,
  state: Any,
  segment_ids: jax.Array | None,
  *,
  method: str,
  chunk_size: int | None,
  default: int,
  on_cpu: tuple[str, str] = ("chunked", "chunked"),
  elsewhere: str = "chunk_parallel",
  **options: Any,
) -> tuple[jax.Array, Any]:
  """Runs an op in the form that `resolve` names.

  Args:
    op: the op, for messages.
    family: the recurrence; without arrays in it if the two of `on_cpu` are
      not one.
    tokens: as for `recurrence.run`.
    state: as for `recurrence.run`.
    segment_ids: as for `recurrence.run`.
    method: as the op got it.
    chunk_size: as the op got it.
    default: the chunk size where none is given.
    on_cpu: what "auto" is on a CPU where only the value is asked, and where a
      gradient is.
    elsewhere: what it is on accelerators.
    **options: of `recurrence.run`.
  """
  length = jax.tree.leaves(tokens)[0].shape[1]
  (value, size), (gradient, _) = (
    resolve(
      op,
      method,
      chunk_size,
      length,
      default,
      kernel=family.kernel is not None,
      auto=(form, elsewhere),
    )
    for form in on_cpu
  )

  def in_form(method):
    def form(tokens, state, segment_ids):
      return recurrence.run(
        family,
        tokens,
        state,
        segment_ids=segment_ids,
        method=method,
        chunk_size=size,
        **options,
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
  op: str,
  method: str,
  chunk_size: int | None,
  length: int,
  default: int,
  kernel: bool = False,
  auto: tuple[str, str] = ("chunked", "chunk_parallel"),
) -> tuple[str, int]:
  """The method and chunk size of a call.

  "auto" takes "recurrent" for a single token, else, unless an op does better
  otherwise, "chunked" on CPU, where chunk after chunk stays in the cache, and
  "chunk_parallel" on accelerators, where many products at once fill more units.
  Chunks are no longer than the sequence, rounded up to a power of two.

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
  if method == "associative":
    instead = '"recurrent", "chunked" or "chunk_parallel"'
    require_length(op, length, 'method "associative"', instead)
  if is_open(length):
    return method, size
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


def default_chunk_size(short: bool = False) -> int:
  """Tokens a chunk for matrix states.

  Args:
    short: whether short chunks are quicker on a CPU: where a chunk's work is
      more than its products, or the keys are narrow.

  Returns:
    64, but 128 to fill a TPU's unit, and 32 on a CPU for `short`.
  """
  name = platform()
  return 128 if name == "tpu" else 32 if name == "cpu" and short else 64
