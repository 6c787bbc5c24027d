"""The engine: four small functions of a family give all its forms.

Every linear-time mixer is a linear recurrence over a state,
`S_t = T_t S_{t-1} + U_t`, read by `y_t = read(q_t, S_t)`. A span of tokens
acts on the state as one `Summary(transition, update)`, and summaries compose
associatively. So a family consists of four functions of one head and one chunk:

  summarize(chunk, masks) -> Summary   how the chunk changes the state
  compose(earlier, later) -> Summary   the summary of two spans in a row
  advance(summary, state) -> state     the state after the chunk
  read(chunk, masks, state) -> y       the chunk's outputs, given the state
                                       before it

From these functions `run` makes the forms

  recurrent    one token after another under `lax.scan`: the definition
  associative  `lax.associative_scan` over the summaries of single tokens
  chunked      one chunk after another under `lax.scan`, rematerialised
  chunk_parallel  all chunks at once; a walk takes the state through them
  pallas       all chunks in a TPU kernel

Each form runs forwards or in reverse, on packed sequences, from any state, on
one device or with the sequence sharded over a mesh axis. "recurrent" is
"chunked", and "associative" is "chunk_parallel", with chunks of one token.
`jaxmodels.ops.engine.make_op.make_op` makes an op from a family of your own.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import layout, sequence_parallel
from jaxmodels.ops.engine.chunks import (
  Inputs,
  Tree,
  in_run_order,
  masks_from,
  merge,
  over_heads,
  repeat_heads,
  split,
  split_ids,
  widen,
)
from jaxmodels.ops.engine.gradients import tangent_scan, with_gradient_of
from jaxmodels.ops.engine.segments import Masks
from jaxmodels.ops.engine.walk import (
  associate,
  compose_all,
  walk,
  walks_in_blocks,
)

Method = Literal[
  "auto", "recurrent", "associative", "chunked", "chunk_parallel", "pallas"
]


class Summary(NamedTuple):
  """How a span of tokens changes a state: `transition . state + update`.

  The update is a pytree like the state: the state after the span if the state
  before it is empty.
  """

  transition: Tree
  update: Tree


# The form "pallas" of a family: `(chunks, masks, state, dtype) -> (y, last)`
# runs all chunks [n, B, h, C, ...] from the state [B, H, ...], to y
# [n, B, H, C, ...] of that dtype.
Kernel = Callable[[Tree, Masks, Tree, Any], tuple[jax.Array, Tree]]


class Factored(NamedTuple):
  """What the summary of a chunk and its outputs share, computed once.

  Used where all chunks are summarised before any is read.

  Attributes:
    factor: `(chunk, masks) -> factors`.
    summarize: `factors -> Summary`.
    enter: `(factors, state) -> entering`, what `read` takes of the state before
      the chunk.
    read: `(chunk, masks, entering) -> y` [C, ...].
    walk: optional, `(factors, state) -> (entering, last)` of all chunks
      [n, B, H, ...] in a kernel of the target platform. None in place of the
      result where there is no kernel, or it does not fit.
  """

  factor: Callable[[Tree, Masks], Tree]
  summarize: Callable[[Tree], Summary]
  enter: Callable[[Tree, Tree], Tree]
  read: Callable[[Tree, Masks, Tree], jax.Array]
  walk: Callable[[Tree, Tree], tuple[Tree, Tree] | None] | None = None


_ABSENT: Any = None  # A family has all of the four functions, or none.
_CHEAPER = ["read_and_advance", "step", "tangent"]
_CHEAPER += ["factored", "prepare", "kernel"]


class _Functions(NamedTuple):
  """The fields of `Family`."""

  summarize: Callable[[Tree, Masks], Summary] = _ABSENT
  compose: Callable[[Summary, Summary], Summary] = _ABSENT
  advance: Callable[[Summary, Tree], Tree] = _ABSENT
  read: Callable[[Tree, Masks, Tree], jax.Array] = _ABSENT
  read_and_advance: (
    Callable[[Tree, Masks, Tree], tuple[jax.Array, Tree]] | None
  ) = None
  step: Callable[[Tree, Masks, Tree], tuple[jax.Array, Tree]] | None = None
  tangent: Callable[[Tree, Tree, Tree], Tree] | None = None
  neutral: Tree = 0
  factored: Factored | None = None
  prepare: Callable[..., Any] | None = None
  kernel: Kernel | None = None
  linear: bool = False
  zero: Callable[[Tree], Tree] | None = None


class Family(_Functions):
  """A recurrence, as functions of one head and one chunk.

  The four functions of a linear recurrence give every form. In some families
  spans do not compose: nonlinear cells, or memories that learn by gradient
  steps. Such a family has only `read_and_advance` and `zero`, and the forms
  "recurrent" and "chunked". `cells.from_cell` makes one
  from a cell.

  Attributes:
    summarize: `(chunk, masks) -> Summary`; chunk is a pytree of [C, ...].
    compose: `(earlier, later) -> Summary`, associative.
    advance: `(summary, state) -> state`.
    read: `(chunk, masks, state) -> y` [C, ...].
    read_and_advance: optional, `(chunk, masks, state) -> (y, state)`: `read`,
      and `advance` with `summarize`, in one function. For families that can
      run a chunk from a known state without its summary, at a lower cost.
    step: optional, `read_and_advance` for a chunk of one token, used without a
      gradient. It may read the state after the token, `y_t = read(q_t, S_t)`,
      so that no copy of the state before it is needed.
    tangent: optional, `(chunk, change, before) -> chunk`, for families whose y
      is every state: the tokens of the tangent, see
      `jaxmodels.ops.engine.gradients`. before [C, ...] holds the states before
      each token.
    neutral: the token that leaves every state unchanged, with which the last
      chunk is padded: a pytree of scalars like a chunk, or one scalar for all
      leaves. None if there is no such token: the last chunk is then shorter.
    factored: optional, `summarize` and `read` with their common part in a
      function of its own.
    prepare: optional, `(chunks, masks, state) -> (family, chunks, state,
      restore)`, where all chunks [n, B, h, C, ...] are at hand: a family whose
      states walk at a lower cost, its chunks and its state. `restore` maps the
      last state back. y is the same.
    kernel: optional, the form "pallas"; with `prepare`, that of its family.
    linear: whether `advance` is `transition . state + update` and linear in the
      state and the update together. Then the gradient of a walk through the
      chunks is cheaper.
    zero: optional, `token -> state`: the default initial state, from a chunk of
      one token. By default, zeros like the update of that token.
  """

  __slots__ = ()

  @property
  def composes(self) -> bool:
    """Whether spans compose, so that the family has every form."""
    return self.compose is not None

  def _replace(self, /, **changes: Any) -> "Family":
    """Another family, with some functions replaced.

    `read_and_advance`, `step`, `tangent`, `factored`, `prepare` and `kernel`
    are cheaper ways to compute the recurrence that `summarize`, `advance` and
    `read` define. If one of these three is replaced, the cheaper ways are
    dropped unless they are replaced too, because they would compute the old
    recurrence.
    """
    if {"summarize", "advance", "read"} & changes.keys():
      changes = dict.fromkeys(_CHEAPER) | changes
    return super()._replace(**changes)

  __replace__ = _replace  # For `copy.replace`.


def run(
  family: Family,
  tokens: Tree,
  state: Tree,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: str = "chunked",
  chunk_size: int = 64,
  axis_name: str | None = None,
  dtype: Any = None,
) -> tuple[jax.Array, Tree]:
  """Runs a family over a sequence in one of its forms.

  Args:
    family: the recurrence.
    tokens: pytree of [B, L, H, ...]. A leaf may have h heads in place of H: h
      divides H, and head i reads head i // (H / h) of the leaf. "recurrent" and
      "chunked" widen narrow floats to float32, and repeat shared heads, one
      chunk at a time; the other forms do so for all chunks at once.
    state: the initial state, pytree of [B, H, ...], float32 or wider.
    segment_ids: [B, L], see `jaxmodels.ops`.
    reverse: see `jaxmodels.ops`.
    method: "recurrent", "associative", "chunked", "chunk_parallel" or, for a
      family with a kernel, "pallas".
    chunk_size: C, tokens per chunk, for the last three.
    axis_name: see `jaxmodels.ops`.
    dtype: dtype of y; by default that of `read`.

  Returns:
    y [B, L, H, ...], and the final state. Under `axis_name` that is the state
    after the whole sequence, the same on every device.
  """
  batch, length = jax.tree.leaves(tokens)[0].shape[:2]
  heads = jax.tree.leaves(state)[0].shape[1]
  # A device of a sharded sequence exchanges states even if it has no tokens.
  if 0 in (batch, heads) or (length == 0 and axis_name is None):
    return _empty(family, tokens, state, dtype), state
  size = 1 if method in ("recurrent", "associative") else chunk_size
  if reverse:
    tokens = jax.tree.map(lambda x: jnp.flip(x, 1), tokens)
  ordered = None
  if segment_ids is not None:
    ordered = in_run_order(segment_ids, reverse, axis_name)
  if family.neutral is None and size > 1 and length % size:
    y, last = _with_short_chunk(family, size, dtype, tokens, ordered, state)
    return jnp.flip(y, 1) if reverse else y, last
  ids = None if ordered is None else split_ids(*ordered, size)
  inputs = Inputs(split(tokens, size, family.neutral), ids)
  final = None
  if axis_name is not None:
    whole = _fold(family, inputs, size)
    state, final = sequence_parallel.exchange(
      over_heads(family.advance), whole, state, axis_name, reverse
    )
  y, last = _through(family, size, method, dtype, inputs, state)
  y = merge(y, length)
  return jnp.flip(y, 1) if reverse else y, last if final is None else final


def _through(family, size, method, dtype, inputs, state):
  """Runs all chunks, with the gradient of `family.tangent` if it has one."""

  def through(family):
    if method in ("recurrent", "chunked"):
      return functools.partial(_chunked, family, size)
    return functools.partial(_chunk_parallel, family, size, method)

  if family.tangent is None:
    return through(family)(dtype, inputs, state)
  # Without `step`, which would add a `custom_jvp`.
  linear = through(family._replace(step=None))
  return tangent_scan(family.tangent, through(family), linear, dtype)(
    inputs, state
  )


def _with_short_chunk(family, size, dtype, tokens, ordered, state):
  """Runs chunks of `size` tokens, and the rest as one shorter chunk."""
  length = jax.tree.leaves(tokens)[0].shape[1]
  at = length - length % size
  ids, before = ordered or (None, None)
  outputs = []
  for part, chunk in ((slice(at), size), (slice(at, None), length - at)):
    some = jax.tree.map(lambda x, part=part: x[:, part], tokens)
    if jax.tree.leaves(some)[0].shape[1] == 0:
      continue
    own = None
    if ids is not None and before is not None:
      own = split_ids(ids[:, part], before, chunk)
      before = ids[:, at - 1]
    inputs = Inputs(split(some, chunk, None), own)
    y, state = _through(family, chunk, "chunked", dtype, inputs, state)
    outputs.append(merge(y, y.shape[0] * chunk))
  return jnp.concatenate(outputs, 1), state


def _chunked(family, size, dtype, inputs, state):
  """Scans over chunks, with the state as the carry."""

  def by(read_and_advance):
    def body(state, one):
      masks = masks_from(one.ids, size)
      chunk = widen(layout.unpack(one.chunks))
      if size == 1:  # A single token has no scores to share.
        chunk = repeat_heads(chunk, jax.tree.leaves(state)[0].shape[1], 1)
      y, state = over_heads(read_and_advance, masks)(chunk, masks, state)
      return state, layout.pack(y.astype(dtype or y.dtype))

    return body

  body = by(family.read_and_advance or read_then_advance(family))
  if size == 1 and family.step is not None:
    body = with_gradient_of(by(family.step), body)
  count = jax.tree.leaves(inputs)[0].shape[0]
  inputs = inputs._replace(chunks=jax.vmap(layout.pack)(inputs.chunks))
  if count == 1:  # No loop. This is also a decoding step.
    state, y = body(state, jax.tree.map(lambda x: x[0], inputs))
    return layout.unpack(y)[None], state
  if size > 1 or family.tangent is not None:
    # The gradient stores only one state per chunk. With a tangent it needs no
    # states, and stores the tokens themselves instead of what a step computes.
    body = jax.checkpoint(body, prevent_cse=False)
  state, y = lax.scan(body, state, inputs)
  return jax.vmap(layout.unpack)(y), state


def _chunk_parallel(family, size, method, dtype, inputs, state):
  """Runs all chunks at once, in the family's kernel or around a walk."""
  masks = masks_from(inputs.ids, size)
  if family.prepare is not None and method != "associative":
    own, chunks, state, restore = family.prepare(inputs.chunks, masks, state)
    inputs = inputs._replace(chunks=chunks)
    y, last = _chunk_parallel(own, size, method, dtype, inputs, state)
    return y, restore(last)
  if method == "pallas":
    return family.kernel(inputs.chunks, masks, state, dtype)
  chunks = widen(inputs.chunks)
  form = family.factored or _factored(family)
  states = associate if method == "associative" else walk
  factors = over_heads(form.factor, masks, chunks=True)(chunks, masks)
  own = form.walk and states is walk and form.walk(factors, state)
  if own:
    entering, last = own
  else:
    summaries = jax.vmap(over_heads(form.summarize))(factors)
    before, last = states(family, summaries, state)
    entering = jax.vmap(over_heads(form.enter))(factors, before)
  y = over_heads(form.read, masks, chunks=True)(chunks, masks, entering)
  return y.astype(dtype or y.dtype), last


def _factored(family):
  """The functions of a family in which summary and outputs share nothing."""
  return Factored(
    family.summarize,
    lambda summary: summary,
    lambda summary, state: state,
    family.read,
  )


def _fold(family, inputs, size):
  """Composes all chunks in one summary, on a GPU in few large steps."""

  def summarize(one):
    masks = masks_from(one.ids, size)
    return over_heads(family.summarize, masks)(widen(one.chunks), masks)

  if walks_in_blocks(inputs):
    masks = masks_from(inputs.ids, size)
    chunks = widen(inputs.chunks)
    every = over_heads(family.summarize, masks, chunks=True)(chunks, masks)
    return compose_all(family, every)

  def body(earlier, one):
    return over_heads(family.compose)(earlier, summarize(one)), None

  first = summarize(jax.tree.map(lambda x: x[0], inputs))
  rest = jax.tree.map(lambda x: x[1:], inputs)
  whole, _ = lax.scan(jax.checkpoint(body, prevent_cse=False), first, rest)
  return whole


def read_then_advance(family):
  """Makes a `read_and_advance` from `summarize`, `read` and `advance`."""

  def read_and_advance(chunk, masks, state):
    summary = family.summarize(chunk, masks)
    return family.read(chunk, masks, state), family.advance(summary, state)

  return read_and_advance


def _empty(family, tokens, state, dtype):
  """The outputs [B, L, H, ...] if B, L or H is 0."""

  def alone(tree, axes):  # Shapes with B, L and H equal to 1.
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1,) * axes + x.shape[axes:], x.dtype),
      tree,
    )

  step = functools.partial(run, family, method="recurrent", dtype=dtype)
  y, _ = jax.eval_shape(step, alone(tokens, 3), alone(state, 2))
  leading = jax.tree.leaves(tokens)[0].shape[:2]
  heads = jax.tree.leaves(state)[0].shape[1]
  return jnp.zeros((*leading, heads, *y.shape[3:]), y.dtype)
