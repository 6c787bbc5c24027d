"""The engine: four small functions of a family give all its forms.

Every linear-time mixer is a linear recurrence over a state,
`S_t = T_t S_{t-1} + U_t`, read by `y_t = read(q_t, S_t)`. A span of tokens
acts on the state as one `Segment(transition, update)`, and segments compose
associatively. So a family says four things, for one head and one chunk,

  summarize(chunk, links) -> Segment   what the chunk does to the state
  compose(earlier, later) -> Segment   the monoid
  advance(segment, state) -> state     the state after the chunk
  read(chunk, links, state) -> y       the chunk's outputs, given the state
                                       that entered it

and `run` makes of them the forms

  recurrent    one token after another under `lax.scan`: the definition
  associative  `lax.associative_scan` over the segments of single tokens
  chunked      one chunk after another under `lax.scan`, rematerialised
  parallel     all chunks at once; only the state walks from one to the next
  pallas       the same, and the state walks in a TPU kernel

each forwards or in reverse, on packed sequences, from any state, on one
device or with the sequence sharded over a mesh axis. "recurrent" is
"chunked" with chunks of one token, "associative" is "parallel" with them.
`jaxmodels.ops.custom.make_op` makes an op of a family of your own.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops import halo, sequence_parallel
from jaxmodels.ops.dtypes import wide
from jaxmodels.ops.links import Links, links_of, one_segment

Method = Literal[
  "auto", "recurrent", "associative", "chunked", "parallel", "pallas"
]
Tree = Any  # A pytree of arrays.


class Segment(NamedTuple):
  """What a span of tokens does to a state: `transition . state + update`.

  The update is a pytree like the state: what the span leaves of an empty one.
  """

  transition: Tree
  update: Tree


class Kernel(NamedTuple):
  """The form of a family in which a kernel walks the state.

  Attributes:
    factor: `(chunk, links) -> factors`, what the walk needs of a chunk.
    walk: `(factors, state) -> (entering, last)`, through all chunks: factors
      are [n, B, H, ...], state and last [B, H, ...], and entering is
      whatever `read` needs of the walk, [n, B, H, ...].
    read: `(chunk, links, entering) -> y` [C, ...].
  """

  factor: Callable[[Tree, Links], Tree]
  walk: Callable[[Tree, Tree], tuple[Tree, Tree]]
  read: Callable[[Tree, Links, Tree], jax.Array]


class Family(NamedTuple):
  """A linear recurrence in four functions of one head and one chunk.

  Attributes:
    summarize: `(chunk, links) -> Segment`; chunk is a pytree of [C, ...].
    compose: `(earlier, later) -> Segment`, associative.
    advance: `(segment, state) -> state`.
    read: `(chunk, links, state) -> y` [C, ...].
    walk: optional `(chunk, links, state) -> (y, state)`, which is `read` and
      `advance` after `summarize` in one, for families where the state allows
      a cheaper way through the chunk than its segment.
    neutral: the token that leaves every state as it is, a pytree of scalars
      like a chunk or one scalar for all leaves; it fills the last chunk.
    kernel: the form "pallas", where there is one.
  """

  summarize: Callable[[Tree, Links], Segment]
  compose: Callable[[Segment, Segment], Segment]
  advance: Callable[[Segment, Tree], Tree]
  read: Callable[[Tree, Links, Tree], jax.Array]
  walk: Callable[[Tree, Links, Tree], tuple[jax.Array, Tree]] | None = None
  neutral: Tree = 0
  kernel: Kernel | None = None


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
    tokens: pytree of [B, L, H, ...]. Narrow floats are widened to float32
      chunk by chunk.
    state: the state that enters, pytree of [B, H, ...], float32 or wider.
    segment_ids: [B, L] integers that only grow; the entering state has id 0.
    reverse: run from the last token to the first; the state then enters at
      the last token and belongs to its segment.
    method: "recurrent", "associative", "chunked", "parallel" or, for a
      family with a kernel, "pallas".
    chunk_size: C, the tokens of a chunk, for the last three.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.
    dtype: dtype of y; as `read` returns it by default.

  Returns:
    y [B, L, H, ...], and the state that leaves. Under `axis_name` that is the
    state after the whole sequence, the same on every device.
  """
  length = jax.tree.leaves(tokens)[0].shape[1]
  if length == 0 and axis_name is None:
    return _empty(family, tokens, state, dtype), state
  before = None
  if reverse:
    tokens = jax.tree.map(lambda x: jnp.flip(x, 1), tokens)
  if segment_ids is not None:
    segment_ids, before = _orient(segment_ids, reverse, axis_name)
  size = 1 if method in ("recurrent", "associative") else chunk_size
  inputs = _Inputs(
    _split(tokens, size, family.neutral),
    None if segment_ids is None else _split_ids(segment_ids, size, before),
  )
  final = None
  if axis_name is not None:
    whole = _fold(family, inputs, size)
    state, final = sequence_parallel.exchange(
      _lift(family.advance), whole, state, axis_name, reverse
    )
  if method in ("recurrent", "chunked"):
    y, last = _one_by_one(family, inputs, state, size, dtype)
  else:
    y, last = _all_at_once(family, inputs, state, size, dtype, method)
  y = _merge(y, length)
  return jnp.flip(y, 1) if reverse else y, last if final is None else final


# The two ways through the chunks.


def _one_by_one(family, inputs, state, size, dtype):
  """Walks the state from chunk to chunk."""

  def body(state, one):
    links = _links(one.ids, size)
    walk = _lift(family.walk or _walk(family), links)
    y, state = walk(_widen(one.chunks), links, state)
    return state, y.astype(dtype or y.dtype)

  count = jax.tree.leaves(inputs)[0].shape[0]
  if count == 1:  # No loop: this is also the step of decoding.
    state, y = body(state, jax.tree.map(lambda x: x[0], inputs))
    return y[None], state
  if size > 1:  # The gradient keeps the states between chunks, no more.
    body = jax.checkpoint(body, prevent_cse=False)
  state, y = lax.scan(body, state, inputs)
  return y, state


def _all_at_once(family, inputs, state, size, dtype, method):
  """Summarises all chunks, finds the states between them, reads all chunks."""
  chunks = _widen(inputs.chunks)
  links = _links(inputs.ids, size)
  if method == "pallas":
    form = family.kernel
  else:
    states = _associate if method == "associative" else _advance_through
    walk = functools.partial(states, family)
    form = Kernel(family.summarize, walk, family.read)
  factors = _lift(form.factor, links, chunks=True)(chunks, links)
  entering, last = form.walk(factors, state)
  y = _lift(form.read, links, chunks=True)(chunks, links, entering)
  return y.astype(dtype or y.dtype), last


def _advance_through(family, segments, state):
  """The states [n, ...] entering n segments, and the one leaving the last."""

  def body(state, segment):
    return _lift(family.advance)(segment, state), state

  last, entering = lax.scan(body, state, segments)
  return entering, last


def _associate(family, segments, state):
  """As `_advance_through`, from an associative scan over the segments."""
  prefix = lax.associative_scan(jax.vmap(_lift(family.compose)), segments)
  advance = jax.vmap(_lift(family.advance), in_axes=(0, None))
  leaving = advance(prefix, state)
  entering = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest[:-1]]),
    state,
    leaving,
  )
  return entering, jax.tree.map(lambda x: x[-1], leaving)


def _fold(family, inputs, size):
  """The one segment of all chunks."""

  def summarize(one):
    links = _links(one.ids, size)
    return _lift(family.summarize, links)(_widen(one.chunks), links)

  def body(earlier, one):
    return _lift(family.compose)(earlier, summarize(one)), None

  first = summarize(jax.tree.map(lambda x: x[0], inputs))
  rest = jax.tree.map(lambda x: x[1:], inputs)
  whole, _ = lax.scan(jax.checkpoint(body, prevent_cse=False), first, rest)
  return whole


def _walk(family):
  """The walk that follows from the four functions."""

  def walk(chunk, links, state):
    segment = family.summarize(chunk, links)
    return family.read(chunk, links, state), family.advance(segment, state)

  return walk


# From sequences to chunks and from one head to all.


class _Inputs(NamedTuple):
  """The sequence in n chunks: tokens [n, B, H, C, ...], ids [n, B, 1 + C]."""

  chunks: Tree
  ids: jax.Array | None


def _split(tokens, size, neutral):
  """[B, L, H, ...] to [n, B, H, C, ...]; neutral tokens fill the last chunk."""

  def split(x, fill):
    batch, length, heads, *rest = x.shape
    pad = [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, pad, constant_values=fill)
    x = x.reshape(batch, -1, size, heads, *rest)
    return jnp.moveaxis(x, (1, 3), (0, 2))

  fill = jax.tree.broadcast(neutral, tokens)
  return jax.tree.map(split, tokens, fill)


def _merge(y, length):
  """[n, B, H, C, ...] back to [B, L, H, ...]."""
  count, batch, heads, size, *rest = y.shape
  y = jnp.moveaxis(y, (0, 2), (1, 3)).reshape(batch, count * size, heads, *rest)
  return y[:, :length]


def _split_ids(ids, size, before):
  """[B, L] to [n, B, 1 + C]: each chunk's ids behind the id before it."""
  ids = jnp.pad(ids, [(0, 0), (0, -ids.shape[1] % size)], mode="edge")
  ids = jnp.moveaxis(ids.reshape(ids.shape[0], -1, size), 1, 0)
  before = jnp.concatenate([before[None], ids[:-1, :, -1]])
  return jnp.concatenate([before[..., None], ids], axis=-1)


def _orient(ids, reverse, axis_name):
  """The ids in the order of the run, and the id [B] before their first."""
  if reverse:
    ids = halo.reverse_ids(ids, axis_name)
  before = jnp.zeros_like(ids[:, 0])  # The entering state has id 0.
  if axis_name is not None:
    before = halo.from_previous(ids[:, -1], before, axis_name, reverse)
  return ids, before


def _links(ids, size):
  """Links of chunks with ids [..., 1 + C], or of chunks of one segment."""
  if ids is None:
    return one_segment(size)
  links = links_of
  for _ in range(ids.ndim - 1):
    links = jax.vmap(links)
  return links(ids[..., 1:], ids[..., 0])


def _lift(function, links=None, chunks=False):
  """Lifts a function of one head to [B, H], or with `chunks` to [n, B, H].

  Heads share the links; batch and chunks do so too where they are constants.
  """

  def lifted(*args):
    linked = [isinstance(arg, Links) for arg in args]
    per_head = [None if is_links else 0 for is_links in linked]
    constant = links is not None and links.pair.ndim == 2
    per_batch = per_head if constant else [0] * len(args)
    lifted = jax.vmap(jax.vmap(function, per_head), per_batch)
    if not chunks:
      return lifted(*args)
    # Batch and chunks as one axis: compilers like fewer, and XLA on CPU has
    # crashed in reductions of seven. The batch goes first: were it cut over
    # devices behind the chunks, each device would gather all of it.
    count, batch = jax.tree.leaves(args[0])[0].shape[:2]
    folded = (
      arg if one is None else _reshape(_swap(arg), 2, (-1,))
      for arg, one in zip(args, per_batch, strict=True)
    )
    return _swap(_reshape(lifted(*folded), 1, (batch, count)))

  return lifted


def _swap(tree):
  """The first two axes of all leaves in the other order."""
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _reshape(tree, count, shape):
  """Another shape for the first `count` axes of all leaves."""
  return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[count:]), tree)


def _widen(tree):
  """Floats narrower than float32 become float32."""
  return jax.tree.map(lambda x: x.astype(wide(x)), tree)


def _empty(family, tokens, state, dtype):
  """The outputs [B, 0, H, ...] of a sequence without tokens."""
  one = jax.tree.map(
    lambda x: jnp.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype), tokens
  )
  y, _ = run(family, one, state, method="recurrent", dtype=dtype)
  return y[:, :0]
