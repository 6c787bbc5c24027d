"""Checks `method` and `chunk_size` of a call, and runs its form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import recurrence
from jaxmodels.ops.engine.auto import Choice
from jaxmodels.ops.engine.checks import is_open, require, require_length, runs
from jaxmodels.ops.engine.gradients import with_gradient_of
from jaxmodels.ops.engine.platform import platform
from jaxmodels.ops.engine.recurrence import Family, Method

METHODS = ("auto", "recurrent", "associative", "chunked", "chunk_parallel")


class Options(NamedTuple):
  """The options of a call, as `jaxmodels.ops` documents them."""

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
    family: the recurrence. If the two forms of `choice` differ, its functions
      must not close over arrays.
    tokens: as for `recurrence.run`.
    state: as for `recurrence.run`.
    segment_ids: as for `recurrence.run`.
    options: of the call.
    choice: the forms of "auto", and the default chunk sizes.
    dtype: as for `recurrence.run`.
  """
  length = jax.tree.leaves(tokens)[0].shape[1]
  _check_family(op, family, options)
  (value, size), (gradient, _) = (
    resolve(op, options, length, auto, choice)
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
  op: str, options: Options, length: Any, auto: str, choice: Choice
) -> tuple[str, int]:
  """The method and chunk size of a call.

  The chunk size is at most the length rounded up to a power of two.

  Args:
    op: the op, for messages.
    options: of the call.
    length: L.
    auto: the form of "auto" for more than one token; for one token it is
      "recurrent".
    choice: the default chunk sizes.
  """
  method: str = options.method
  require(
    method in (*METHODS, "pallas"),
    f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}",
  )
  if method == "auto":
    # An associative scan needs the length.
    by_token = length == 1 or (auto == "associative" and is_open(length))
    method = "recurrent" if by_token else auto
  size = options.chunk_size
  if size is None:
    size = choice.pallas if method == "pallas" else choice.chunk
  require(
    size > 0 and size & (size - 1) == 0,
    f"{op}: chunk_size must be a power of two, got {size}",
  )
  if method == "associative":
    instead = '"recurrent", "chunked" or "chunk_parallel"'
    require_length(op, length, 'method "associative"', instead)
  if is_open(length):
    return method, size
  size = min(size, 1 << max(length - 1, 0).bit_length())
  # A tile of a TPU has 8 rows. More tokens than the length are neutral.
  return method, max(size, 8) if method == "pallas" else size


def _forms(family: Family, choice: Choice, length: Any) -> tuple[str, str]:
  """The forms of "auto" without and with a gradient."""
  if family.composes:
    return choice.value, choice.gradient
  # Without a neutral token the last chunk is shorter, and if L is symbolic its
  # length is unknown.
  by_token = is_open(length) and family.neutral is None
  return ("recurrent",) * 2 if by_token else ("chunked",) * 2


def _check_family(op: str, family: Family, options: Options) -> None:
  """Checks that the family has the form of the call."""
  method = options.method
  if method == "pallas":
    _check_kernel(op, family.kernel is not None)
  if family.composes:
    return
  why = "its family has no summaries of spans, which compose"
  known = ("auto", "recurrent", "chunked")
  require(
    method in known,
    f"{op}: method must be one of {', '.join(known)}, got {method!r}: {why}",
  )
  require(
    options.axis_name is None,
    f"{op}: axis_name must be None, got {options.axis_name!r}: {why}, so its "
    "sequence cannot be sharded",
  )


def _check_kernel(op: str, kernel: bool) -> None:
  """Checks that the op has a kernel, and that this platform can run it."""
  require(
    kernel, f'{op}: method "pallas" has no kernel for this op; use "auto"'
  )
  name = platform()
  require(
    name in ("tpu", "cpu"),
    f'{op}: method "pallas" needs a TPU, or a CPU that interprets it, got '
    f'{name}; use "auto"',
  )
