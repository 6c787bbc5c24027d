"""What the kernels of `chunked` compute for one chunk of some heads.

Refs hold one block. Tokens are [C, h, W] per array, or [C, h] if there is one
number per token and head; h divides the G heads of the block, which share
them. States are [G, K, V].

A head of [C, h, W] is every h-th row of [C h, W]. Loads with a stride take
float32 alone, from at most 128 lanes, so `_Tokens` copies tokens to scratch
memory, in parts of 128 lanes, with h rounded up to a whole tile.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxmodels.ops.engine.chunks import Tree
from jaxmodels.ops.engine.segments import Masks, causal_masks, masks_of
from jaxmodels.ops.kernels.grid import LANES, TILE, round_up

# `(chunk, masks, state) -> (y, state)`, for one head and one chunk.
Function = Callable[[Tree, Masks, jax.Array], tuple[jax.Array, jax.Array]]


class Leaf(NamedTuple):
  """An array of tokens.

  Attributes:
    shape: of one head and chunk: [C], [C, 1] or [C, W].
    heads: h, of one block.
  """

  shape: tuple[int, ...]
  heads: int

  @property
  def flat(self) -> bool:
    """Whether there is one number per token and head."""
    return self.shape[1:] in ((), (1,))

  @property
  def kind(self) -> str:
    """How its blocks are read: "flat", or the "rows" of all heads."""
    return "flat" if self.flat else "rows"

  @property
  def rows(self) -> int:
    """The heads, rounded up to a whole tile."""
    return round_up(self.heads, TILE)

  @property
  def parts(self) -> list[slice]:
    """The lanes of each part in scratch memory, which flat arrays lack."""
    width = 0 if self.flat else self.shape[1]
    return [slice(i, min(i + LANES, width)) for i in range(0, width, LANES)]

  @property
  def scratch(self) -> list[tuple[int, int]]:
    """The shape of each part."""
    rows = self.shape[0] * self.rows
    return [(rows, part.stop - part.start) for part in self.parts]


class Plan(NamedTuple):
  """What is computed, and in which blocks.

  Attributes:
    function: of one head and one chunk.
    tree: the structure of a chunk.
    leaves: its arrays.
    y: the outputs, as a leaf.
    state: K and V.
    heads: H, of all blocks.
    packed: whether there are segments.
    stores: whether the forward kernel stores the state before each chunk.
  """

  function: Function
  tree: Any
  leaves: tuple[Leaf, ...]
  y: Leaf
  state: tuple[int, int]
  heads: int
  packed: bool
  stores: bool = False

  @property
  def size(self) -> int:
    """C, the tokens per chunk."""
    return self.y.shape[0]

  def shared(self, leaf: Leaf, h: Any) -> Any:
    """The head of a leaf that head h of the state reads."""
    # `//` also takes a sign, which is compiled only for a TPU at hand.
    return lax.div(h, self.y.heads // leaf.heads)


def value_of(plan: Plan) -> Callable[..., Any]:
  """`(*leaves, [changes,] state) -> (y, state)`, of one head."""

  def value(*given):
    *leaves, state = given
    masks = masks_of(leaves.pop()) if plan.packed else causal_masks(plan.size)
    return plan.function(plan.tree.unflatten(leaves), masks, state)

  return value


def gradient_of(plan: Plan) -> Callable[..., Any]:
  """`(*leaves, [changes,] state, dy, d_state) -> (*d_leaves, d_state)`."""

  def gradient(*given):
    *leaves, state, dy, d_state = given
    changes = [leaves.pop()] if plan.packed else []

    def value(leaves, state):
      return value_of(plan)(*leaves, *changes, state)

    _, pull_back = jax.vjp(value, leaves, state)
    d_leaves, d_state = pull_back((dy, d_state))
    return *d_leaves, d_state

  return gradient


class _Tokens:
  """An array of tokens in a block, which is read or written per head."""

  def __init__(self, leaf, ref, scratch):
    self._leaf, self._ref = leaf, ref
    self._parts = _some(scratch, len(leaf.scratch))

  def load(self):
    """Copies the block to scratch memory."""
    size, leaf = self._leaf.shape[0], self._leaf
    for lanes, part in zip(leaf.parts, self._parts, strict=True):
      x = self._ref[:, :, lanes].astype(part.dtype)
      x = jnp.pad(x, [(0, 0), (0, leaf.rows - leaf.heads), (0, 0)])
      part[...] = x.reshape(size * leaf.rows, -1)

  def clear(self):
    """Sets all heads to zero."""
    for part in self._parts or [self._ref]:
      part[...] = jnp.zeros_like(part)

  def store(self):
    """Copies scratch memory to the block."""
    size, leaf = self._leaf.shape[0], self._leaf
    for lanes, part in zip(leaf.parts, self._parts, strict=True):
      x = part[...].reshape(size, leaf.rows, -1)[:, : leaf.heads]
      self._ref[:, :, lanes] = x.astype(self._ref.dtype)

  def head(self, h):
    """[C], [C, 1] or [C, W]."""
    if self._leaf.flat:
      x = jnp.where(self._is(h), self._ref[...], 0)
      return jnp.sum(x, axis=1).reshape(self._leaf.shape)
    parts = [part[self._rows(h)] for part in self._parts]
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

  def add(self, h, x):
    """Adds to a head."""
    if self._leaf.flat:
      x = jnp.where(self._is(h), x.reshape(-1, 1), 0)
      self._ref[...] += x.astype(self._ref.dtype)
      return
    for lanes, part in zip(self._leaf.parts, self._parts, strict=True):
      part[self._rows(h)] += x[:, lanes]

  def _rows(self, h):
    return pl.ds(h, self._leaf.shape[0], stride=self._leaf.rows), slice(None)

  def _is(self, h):
    shape = self._leaf.shape[0], self._leaf.heads
    return lax.broadcasted_iota(jnp.int32, shape, 1) == h


def forward(plan, traced, *refs):
  """Writes y, and the state after the chunk in place of that before it."""
  take = iter(refs)
  constants = _some(take, len(traced.consts))
  leaves = _some(take, len(plan.leaves))
  changes = _some(take, plan.packed)
  (first,) = _some(take, 1)
  y, last, *entering = _some(take, 3 if plan.stores else 2)
  tokens = [_Tokens(*x, take) for x in zip(plan.leaves, leaves, strict=True)]
  outputs = _Tokens(plan.y, y, take)
  _start(last, first)
  for ref in entering:  # For a gradient.
    ref[...] = last[...]
  for x in tokens:
    x.load()
  outputs.clear()

  def head(h, carry):
    given = _of_head(plan, tokens, changes, h)
    y, state = _evaluate(traced, constants, *given, last[h])
    outputs.add(h, y)
    last[h] = state
    return carry

  lax.fori_loop(0, last.shape[0], head, None)
  outputs.store()


def backward(plan, traced, *refs):
  """Writes the gradients, and that of the state before the chunk."""
  take = iter(refs)
  constants = _some(take, len(traced.consts))
  leaves = _some(take, len(plan.leaves))
  changes = _some(take, plan.packed)
  entering, dy, d_last = _some(take, 3)
  results = _some(take, len(plan.leaves))
  (d_state,) = _some(take, 1)
  tokens = [_Tokens(*x, take) for x in zip(plan.leaves, leaves, strict=True)]
  outputs = _Tokens(plan.y, dy, take)
  changed = [_Tokens(*x, take) for x in zip(plan.leaves, results, strict=True)]
  _start(d_state, d_last)
  for x in (*tokens, outputs):
    x.load()
  for x in changed:
    x.clear()

  def head(h, carry):
    given = _of_head(plan, tokens, changes, h)
    *d_leaves, before = _evaluate(
      traced, constants, *given, entering[h], outputs.head(h), d_state[h]
    )
    for x, leaf, d_leaf in zip(changed, plan.leaves, d_leaves, strict=True):
      x.add(plan.shared(leaf, h), d_leaf)
    d_state[h] = before
    return carry

  lax.fori_loop(0, d_state.shape[0], head, None)
  for x in changed:
    x.store()


def _of_head(plan, tokens, changes, h):
  """The arguments of head h that both functions take."""
  leaves = [
    x.head(plan.shared(leaf, h))
    for x, leaf in zip(tokens, plan.leaves, strict=True)
  ]
  return *leaves, *(ref[0] for ref in changes)


def _evaluate(traced, constants, *given):
  """Evaluates the traced function; booleans are stored as numbers."""
  values = [
    ref[...].reshape(x.shape) != 0 if x.dtype == bool else ref[...]
    for ref, x in zip(constants, traced.consts, strict=True)
  ]
  return jax.core.eval_jaxpr(traced.jaxpr, values, *given)


def _start(state, first):
  """Copies the initial state to the output before the first chunk."""

  @pl.when(pl.program_id(2) == 0)
  def _():
    state[...] = first[...]


def _some(take: Iterator[Any], count: int) -> list[Any]:
  return [next(take) for _ in range(count)]
