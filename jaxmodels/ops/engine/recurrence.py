"""The engine: four small functions of a family give all its forms.

Every linear-time mixer is a linear recurrence over a state,
`S_t = T_t S_{t-1} + U_t`, read by `y_t = read(q_t, S_t)`. A span of tokens
acts on the state as one `Summary(transition, update)`, and summaries compose
associatively. So a family says four things, for one head and one chunk,

  summarize(chunk, masks) -> Summary   what the chunk does to the state
  compose(earlier, later) -> Summary   the monoid
  advance(summary, state) -> state     the state after the chunk
  read(chunk, masks, state) -> y       the chunk's outputs, given the state
                                       that entered it

and `run` makes of them the forms

  recurrent    one token after another under `lax.scan`: the definition
  associative  `lax.associative_scan` over the summaries of single tokens
  chunked      one chunk after another under `lax.scan`, rematerialised
  chunk_parallel  all chunks at once; a scan takes the state through them
  pallas       the same, with the scan in a TPU kernel

each forwards or in reverse, on packed sequences, from any state, on one
device or with the sequence sharded over a mesh axis. "recurrent" is
"chunked" with chunks of one token, "associative" is "chunk_parallel" with them.
`jaxmodels.ops.engine.make_op.make_op` makes an op of a family of your own.
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
from jaxmodels.ops.engine.segments import Masks, token_masks

Method = Literal[
  "auto", "recurrent", "associative", "chunked", "chunk_parallel", "pallas"
]


class Summary(NamedTuple):
  """What a span of tokens does to a state: `transition . state + update`.

  The update is a pytree like the state: what the span leaves of an empty one.
  """

  transition: Tree
  update: Tree


class Kernel(NamedTuple):
  """The form of a family in which a kernel takes the state through all chunks.

  Attributes:
    factor: `(chunk, masks) -> factors`, what the scan needs of a chunk.
    scan_states: `(factors, state) -> (entering, last)`, through all chunks:
      factors are [n, B, H, ...], state and last [B, H, ...], and entering is
      whatever `read` needs of the scan, [n, B, H, ...].
    read: `(chunk, masks, entering) -> y` [C, ...].
  """

  factor: Callable[[Tree, Masks], Tree]
  scan_states: Callable[[Tree, Tree], tuple[Tree, Tree]]
  read: Callable[[Tree, Masks, Tree], jax.Array]


_ABSENT: Any = None  # All four are there, or none is.


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
  kernel: Kernel | None = None
  zero: Callable[[Tree], Tree] | None = None


class Family(_Functions):
  """A recurrence in functions of one head and one chunk.

  The four functions of a linear recurrence give every form. A family whose
  spans do not compose, such as a nonlinear cell or a memory that learns by
  gradient steps, has `read_and_advance` and `zero` alone, and the forms
  "recurrent" and "chunked": `from_cell` makes one of a cell.

  Attributes:
    summarize: `(chunk, masks) -> Summary`; chunk is a pytree of [C, ...].
    compose: `(earlier, later) -> Summary`, associative.
    advance: `(summary, state) -> state`.
    read: `(chunk, masks, state) -> y` [C, ...].
    read_and_advance: optional `(chunk, masks, state) -> (y, state)`, which is
      `read` and `advance` after `summarize` in one, for families where the
      state allows a cheaper way through the chunk than its summary.
    step: optional, `read_and_advance` of a chunk of one token where only its
      value is asked: outputs that read the state after the token,
      `y_t = read(q_t, S_t)`, spare a copy of the state before it.
    tangent: optional, `(chunk, change, before) -> chunk` for families whose y
      is every state: the tokens that write the tangent, see
      `jaxmodels.ops.engine.gradients`; before [C, ...] are the states before
      each token.
    neutral: the token that leaves every state as it is, a pytree of scalars
      like a chunk or one scalar for all leaves; it fills the last chunk. None
      if there is no such token: the last chunk is then a shorter one.
    kernel: the form "pallas", where there is one.
    zero: optional, `token -> state`, the state where none is given, from a
      chunk of one token; by default zeros like the update of that token.
  """

  __slots__ = ()

  @property
  def composes(self) -> bool:
    """Whether its spans compose, so that it has every form."""
    return self.compose is not None

  def _replace(self, /, **changes: Any) -> "Family":
    """Another family, with some functions replaced.

    `read_and_advance`, `step`, `tangent` and `kernel` are other ways to what
    `summarize`, `advance` and `read` say. If one of those three is replaced,
    these are left out unless they are replaced too: they would compute the old
    recurrence.
    """
    if {"summarize", "advance", "read"} & changes.keys():
      other_ways = ("read_and_advance", "step", "tangent", "kernel")
      changes = dict.fromkeys(other_ways) | changes
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
    tokens: pytree of [B, L, H, ...]; or with G heads that divide H, of which
      each serves H / G in turn. Narrow floats are widened to float32, and
      shared heads repeated, chunk by chunk.
    state: the state that enters, pytree of [B, H, ...], float32 or wider.
    segment_ids: [B, L] integers; a segment is a run of equal ids, and the
      entering state has id 0.
    reverse: run from the last token to the first; the state then enters at
      the last token and belongs to its segment.
    method: "recurrent", "associative", "chunked", "chunk_parallel" or, for a
      family with a kernel, "pallas".
    chunk_size: C, the tokens of a chunk, for the last three.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.
    dtype: dtype of y; as `read` returns it by default.

  Returns:
    y [B, L, H, ...], and the state that leaves. Under `axis_name` that is the
    state after the whole sequence, the same on every device.
  """
  batch, length = jax.tree.leaves(tokens)[0].shape[:2]
  heads = jax.tree.leaves(state)[0].shape[1]
  # Where the sequence is sharded a device without tokens has its neighbours'.
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
    whole = _fold(family, inputs, size, heads)
    state, final = sequence_parallel.exchange(
      over_heads(family.advance), whole, state, axis_name, reverse
    )
  y, last = _through(family, size, method, dtype, inputs, state)
  y = merge(y, length)
  return jnp.flip(y, 1) if reverse else y, last if final is None else final


def _through(family, size, method, dtype, inputs, state):
  """Through all chunks, with the gradient of the family's tangent if any."""

  def through(family):
    if method in ("recurrent", "chunked"):
      return functools.partial(_chunked, family, size)
    return functools.partial(_chunk_parallel, family, size, method)

  if family.tangent is None:
    return through(family)(dtype, inputs, state)
  # Without `step`, which stands in a `with_gradient_of`.
  linear = through(family._replace(step=None))
  return tangent_scan(family.tangent, through(family), linear, dtype)(
    inputs, state
  )


def _with_short_chunk(family, size, dtype, tokens, ordered, state):
  """Chunks of `size` tokens, and the rest of them as one shorter chunk."""
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


def from_cell(
  cell: Callable[[Tree, Tree], tuple[Tree, Tree]],
  zero: Callable[[Tree], Tree],
) -> Family:
  """A family of a cell: a recurrence that goes token by token, of any kind.

  For nonlinear recurrences, whose spans do not compose. In "chunked" a
  gradient stores the states between chunks and those of one chunk.

  Args:
    cell: `(token, state) -> (y, state)` of one head, where a token is a pytree
      like the chunk without its axis of tokens.
    zero: `token -> state`, the state that each segment starts from.
  """

  def read_and_advance(chunk, masks, state):
    token = jax.tree.map(lambda x: x[0], chunk)
    state = jax.tree.map(
      lambda x, empty: jnp.where(masks.entry[0], x, empty), state, zero(token)
    )
    y, state = cell(token, state)
    return y[None], state

  return Family(
    read_and_advance=scan_tokens(read_and_advance),
    zero=lambda chunk: zero(jax.tree.map(lambda x: x[0], chunk)),
    neutral=None,
  )


def scan_tokens(read_and_advance: Callable) -> Callable:
  """Goes through a chunk token by token, with a family's `read_and_advance`.

  On a CPU it is faster if a chunk has far more to do than its tokens. In
  "chunked" it stores, for a gradient, the states between chunks and those of
  one chunk.
  """

  def through(chunk, masks, state):
    if jax.tree.leaves(chunk)[0].shape[0] == 1:
      return read_and_advance(chunk, masks, state)
    masked = token_masks(masks)

    def body(state, one):
      token, joined = one
      y, state = read_and_advance(_alone(token), masked(joined), state)
      return state, y[0]

    state, y = lax.scan(body, state, (chunk, masks.previous))
    return y, state

  return through


def _alone(token):
  """A token as a chunk of one."""
  return jax.tree.map(lambda x: x[None], token)


# The two ways through the chunks.


def _chunked(family, size, dtype, inputs, state):
  """Takes the state from chunk to chunk."""

  def by(read_and_advance):
    def body(state, one):
      masks = masks_from(one.ids, size)
      heads = jax.tree.leaves(state)[0].shape[1]
      chunk = widen(repeat_heads(layout.unpack(one.chunks), heads, 1))
      y, state = over_heads(read_and_advance, masks)(chunk, masks, state)
      return state, layout.pack(y.astype(dtype or y.dtype))

    return body

  body = by(family.read_and_advance or _read_and_advance(family))
  if size == 1 and family.step is not None:
    body = with_gradient_of(by(family.step), body)
  count = jax.tree.leaves(inputs)[0].shape[0]
  inputs = inputs._replace(chunks=jax.vmap(layout.pack)(inputs.chunks))
  if count == 1:  # No loop: this is also the step of decoding.
    state, y = body(state, jax.tree.map(lambda x: x[0], inputs))
    return layout.unpack(y)[None], state
  if size > 1 or family.tangent is not None:
    # The gradient keeps the states between chunks, no more. A tangent needs
    # no states: it keeps the tokens as they are, not what a step makes of them.
    body = jax.checkpoint(body, prevent_cse=False)
  state, y = lax.scan(body, state, inputs)
  return jax.vmap(layout.unpack)(y), state


def _chunk_parallel(family, size, method, dtype, inputs, state):
  """Summarises all chunks, finds the states between them, reads all chunks."""
  heads = jax.tree.leaves(state)[0].shape[1]
  chunks = widen(repeat_heads(inputs.chunks, heads, 2))
  masks = masks_from(inputs.ids, size)
  if method == "pallas":
    form = family.kernel
  else:
    states = _associate if method == "associative" else _advance_through
    scan_states = functools.partial(states, family)
    form = Kernel(family.summarize, scan_states, family.read)
  factors = over_heads(form.factor, masks, chunks=True)(chunks, masks)
  entering, last = form.scan_states(factors, state)
  y = over_heads(form.read, masks, chunks=True)(chunks, masks, entering)
  return y.astype(dtype or y.dtype), last


def _advance_through(family, summaries, state):
  """The states [n, ...] entering n spans, and the one leaving the last."""

  def body(state, summary):
    return over_heads(family.advance)(summary, state), state

  last, entering = lax.scan(body, state, summaries)
  return entering, last


def _associate(family, summaries, state):
  """As `_advance_through`, from an associative scan over the summaries."""
  prefix = lax.associative_scan(jax.vmap(over_heads(family.compose)), summaries)
  advance = jax.vmap(over_heads(family.advance), in_axes=(0, None))
  leaving = advance(prefix, state)
  entering = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest[:-1]]),
    state,
    leaving,
  )
  return entering, jax.tree.map(lambda x: x[-1], leaving)


def _fold(family, inputs, size, heads):
  """The one summary of all chunks."""

  def summarize(one):
    masks = masks_from(one.ids, size)
    chunk = widen(repeat_heads(one.chunks, heads, 1))
    return over_heads(family.summarize, masks)(chunk, masks)

  def body(earlier, one):
    return over_heads(family.compose)(earlier, summarize(one)), None

  first = summarize(jax.tree.map(lambda x: x[0], inputs))
  rest = jax.tree.map(lambda x: x[1:], inputs)
  whole, _ = lax.scan(jax.checkpoint(body, prevent_cse=False), first, rest)
  return whole


def _read_and_advance(family):
  """`read_and_advance` as it follows from the four functions."""

  def read_and_advance(chunk, masks, state):
    summary = family.summarize(chunk, masks)
    return family.read(chunk, masks, state), family.advance(summary, state)

  return read_and_advance


def _empty(family, tokens, state, dtype):
  """The outputs [B, L, H, ...] where B, L or H is 0."""

  def alone(tree, axes):  # One of each, shapes alone.
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1,) * axes + x.shape[axes:], x.dtype),
      tree,
    )

  step = functools.partial(run, family, method="recurrent", dtype=dtype)
  y, _ = jax.eval_shape(step, alone(tokens, 3), alone(state, 2))
  leading = jax.tree.leaves(tokens)[0].shape[:2]
  heads = jax.tree.leaves(state)[0].shape[1]
  return jnp.zeros((*leading, heads, *y.shape[3:]), y.dtype)
