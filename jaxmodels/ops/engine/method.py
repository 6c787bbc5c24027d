"""Which form an op takes: `method` and `chunk_size`, checked and chosen.

`jaxmodels.ops.engine.auto` has the table of "auto". It never takes "pallas",
which is to be asked for: `jit` cannot split a kernel over several chips, and no
chip has run them yet. By the bytes that XLA counts for a gradient on a TPU v5e,
"pallas" moves less than "chunk_parallel" for wide heads of the delta rule
(benchmarks/NOTES.md); but "chunked", which "auto" is there, needs a fourteenth
of the memory of either.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import recurrence
from jaxmodels.ops.engine.auto import Choice
from jaxmodels.ops.engine.checks import require, runs
from jaxmodels.ops.engine.exporting import is_open, require_length
from jaxmodels.ops.engine.gradients import with_gradient_of
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.recurrence import Family, Method

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
