"""Walks: the states between chunks, from the summaries of all chunks.

A walk takes the state through n chunks and returns the state before each. All
three ways return the same; they differ in the size and number of their steps:

  in_order   one chunk after another under `lax.scan`: the least work
  in_blocks  blocks of chunks side by side: about 4 steps per factor of 4 in n,
             each over many chunks
  associate  `lax.associative_scan` over all summaries

A GPU starts several kernels per step, and a step of one chunk is too small for
it, so it walks in blocks. Families with a `Factored.walk` do not come here on
a Hopper GPU: they walk in one kernel (`jaxmodels.ops.kernels.gpu_walk`).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.chunks import Tree, over_heads
from jaxmodels.ops.engine.platform import platform

__all__ = [
  "associate",
  "compose_all",
  "in_blocks",
  "in_order",
  "walk",
  "walks_in_blocks",
]

BLOCK = 4  # Chunks per block.


def walk(family: Any, summaries: Any, state: Tree) -> tuple[Tree, Tree]:
  """The states [n, ...] before each of n chunks, and the one after the last.

  Args:
    family: the recurrence, see `jaxmodels.ops.engine.recurrence.Family`.
    summaries: of the chunks, [n, B, H, ...].
    state: [B, H, ...], before the first chunk.
  """
  if not walks_in_blocks(summaries):
    return in_order(family, summaries, state)
  if family.linear:
    return _with_linear_tangent(family)(summaries, state)
  return in_blocks(family, summaries, state)


def walks_in_blocks(chunks: Any) -> bool:
  """Whether the target platform takes few large steps through the chunks.

  Args:
    chunks: a pytree of arrays [n, ...].
  """
  return platform() not in ("cpu", "tpu") and not is_open(_count(chunks))


def in_order(family: Any, summaries: Any, state: Tree) -> tuple[Tree, Tree]:
  """As `walk`, one chunk after another."""

  def body(state, summary):
    return over_heads(family.advance)(summary, state), state

  last, entering = lax.scan(body, state, summaries)
  return entering, last


def associate(family: Any, summaries: Any, state: Tree) -> tuple[Tree, Tree]:
  """As `walk`, from an associative scan over the summaries."""
  prefix = lax.associative_scan(jax.vmap(over_heads(family.compose)), summaries)
  advance = jax.vmap(over_heads(family.advance), in_axes=(0, None))
  leaving = advance(prefix, state)
  entering = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest[:-1]]),
    state,
    leaving,
  )
  return entering, jax.tree.map(lambda x: x[-1], leaving)


def in_blocks(family: Any, summaries: Any, state: Tree) -> tuple[Tree, Tree]:
  """As `walk`, through blocks of chunks.

  All blocks compose their summaries at once. The summaries of whole blocks are
  walked in the same way, and then all blocks advance at once from the state
  before them.
  """
  count = _count(summaries)
  if count <= BLOCK:
    return _one_by_one(family, summaries, state)
  whole = count - count % BLOCK
  first, rest = _map(lambda x: x[:whole], summaries), count - whole
  places = [_map(lambda x, i=i: x[i::BLOCK], first) for i in range(BLOCK)]
  compose = jax.vmap(over_heads(family.compose))
  prefixes = list(itertools.accumulate(places, compose))
  before, last = in_blocks(family, prefixes.pop(), state)
  advance = jax.vmap(jax.vmap(over_heads(family.advance)), in_axes=(0, None))
  inside = advance(_stack(prefixes), before)
  entering = _map(_interleave, before, inside)
  if rest:
    others = _map(lambda x: x[whole:], summaries)
    more, last = _one_by_one(family, others, last)
    entering = _map(lambda *x: jnp.concatenate(x), entering, more)
  return entering, last


def compose_all(family: Any, summaries: Any) -> Any:
  """The summary of n chunks in a row, from pairs of neighbours.

  Args:
    family: as for `walk`.
    summaries: of the chunks, [n, B, H, ...].
  """
  compose = jax.vmap(over_heads(family.compose))
  while (count := _count(summaries)) > 1:
    pairs = count // 2
    first, second, rest = (
      _map(lambda x, part=part: x[part], summaries)
      for part in (
        slice(0, 2 * pairs, 2),
        slice(1, 2 * pairs, 2),
        slice(2 * pairs, None),
      )
    )
    joined = compose(first, second)
    summaries = _map(lambda *x: jnp.concatenate(x), joined, rest)
  return _map(lambda x: x[0], summaries)


def _one_by_one(family, summaries, state):
  """As `in_order`, without a loop."""
  states = [state]
  for i in range(_count(summaries)):
    summary = _map(lambda x, i=i: x[i], summaries)
    states.append(over_heads(family.advance)(summary, states[-1]))
  last = states.pop()
  return _stack(states), last


def _with_linear_tangent(
  family: Any,
) -> Callable[[Any, Tree], tuple[Tree, Tree]]:
  """`in_blocks` for `S' = T S + U`, whose tangent is a walk with the same T.

  From `dS' = T dS + (dT S + dU)` follows that a gradient needs the states
  before each chunk, and nothing of how the summaries were composed.
  """
  through = jax.custom_jvp(functools.partial(in_blocks, family))

  @through.defjvp
  def _(primals, tangents):
    (summaries, state), (d_summaries, d_state) = primals, tangents
    entering, last = through(summaries, state)
    advance = jax.vmap(over_heads(family.advance))
    _, update = jax.jvp(
      lambda summaries: advance(summaries, entering),
      (summaries,),
      (d_summaries,),
    )
    change = in_blocks(family, summaries._replace(update=update), d_state)
    return (entering, last), change

  return through


_map = jax.tree.map


def _count(summaries):
  return jax.tree.leaves(summaries)[0].shape[0]


def _stack(trees):
  return _map(lambda *x: jnp.stack(x), *trees)


def _interleave(before, inside):
  """Joins [m, ...] and [BLOCK - 1, m, ...] to the order of the chunks."""
  states = jnp.concatenate([before[None], inside])
  return jnp.swapaxes(states, 0, 1).reshape(-1, *before.shape[1:])
