"""Scans over elements that compose, for states that are pytrees.

A span of tokens acts on the state before it as one `Summary`, and summaries
compose. Functions that run many tokens or chunks at once have them in the last
axis (see `jaxmodels.ops.kalman.small_matrices`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.chunks import Tree
from jaxmodels.ops.engine.recurrence import Summary
from jaxmodels.ops.engine.sequence_parallel import exchange


class ElementScan(NamedTuple):
  """A recurrence, as functions of one token, or of many in the last axis.

  Attributes:
    element: `token -> Summary`.
    compose: `(earlier, later) -> Summary`.
    advance: `(summary, state) -> state`.
    step: `(token, state) -> state`, like `advance` with the token's element,
      but cheaper.
    neutral: a token that leaves every state unchanged.
  """

  element: Callable[[Tree], Summary]
  compose: Callable[[Summary, Summary], Summary]
  advance: Callable[[Summary, Tree], Tree]
  step: Callable[[Tree, Tree], Tree]
  neutral: Tree


def run(
  recurrence: ElementScan,
  tokens: Tree,
  state: Tree,
  method: str,
  axis_name: str | None = None,
  reverse: bool = False,
) -> tuple[Tree, Tree]:
  """The state before the sequence, and the state after every token.

  Args:
    recurrence: the recurrence.
    tokens: [L, ...].
    state: the state before the sequence.
    method: "recurrent", token by token; "chunk_parallel", all chunks in
      parallel in about 3 sqrt(L) steps; "associative", in log L steps.
    axis_name: mesh axis over which L is sharded, or None.
    reverse: whether to run from the last token to the first.

  Returns:
    the state before the sequence (if sharded, before this device's shard), and
    the states [L, ...] after each token.
  """
  length = _length(tokens)
  size = 0 if is_open(length) else 2 ** round(math.log2(length) / 2)
  if axis_name is not None:
    summaries = along(_summarize(recurrence, tokens, size, reverse))
    whole = _fold(recurrence, lambda one: one, summaries, reverse)
    state, _ = exchange(recurrence.advance, whole, state, axis_name, reverse)
  if method == "recurrent":
    states = _step_through(recurrence, tokens, state, reverse)
  elif method == "associative":
    states = _associate(recurrence, tokens, state, reverse)
  else:
    states = _side_by_side(recurrence, tokens, state, size, reverse)
  return state, states


def _length(tokens):
  return jax.tree.leaves(tokens)[0].shape[0]


def across(tree: Tree) -> Tree:
  """Moves the axis of tokens last: [L, ...] to [..., L]."""
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), tree)


def along(tree: Tree) -> Tree:
  """Undoes `across`."""
  return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)


# The methods.


def _step_through(recurrence, tokens, state, reverse):
  def body(state, token):
    state = recurrence.step(token, state)
    return state, state

  # The gradient stores the states, not the intermediate results of a step.
  body = jax.checkpoint(body, prevent_cse=False)
  return lax.scan(body, state, tokens, reverse=reverse)[1]


def _associate(recurrence, tokens, state, reverse):
  """All states, from the first state and the prefixes of the elements."""

  def compose(earlier, later):
    return along(recurrence.compose(across(earlier), across(later)))

  elements = recurrence.element(across(tokens))
  spans = lax.associative_scan(compose, along(elements), reverse=reverse)
  state = jax.tree.map(
    lambda x, xs: jnp.broadcast_to(x[..., None], xs.shape),
    state,
    elements.update,
  )
  return along(recurrence.advance(across(spans), state))


def _side_by_side(recurrence, tokens, state, size, reverse):
  """Finds the state before each chunk, then runs all chunks in parallel."""
  summaries = along(_summarize(recurrence, tokens, size, reverse))

  def body(state, summary):
    return recurrence.advance(summary, state), state

  _, entering = lax.scan(body, state, summaries, reverse=reverse)
  states = _step_through(
    recurrence, _split(recurrence, tokens, size), across(entering), reverse
  )
  return jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:])[: _length(tokens)], along(states)
  )


def _split(recurrence, tokens, size):
  """[L, ...] to [C, ..., n]; neutral tokens fill the last chunk."""

  def to_chunks(x, fill):
    missing = jnp.broadcast_to(fill, (-x.shape[0] % size, *x.shape[1:]))
    x = jnp.concatenate([x, missing.astype(x.dtype)])
    return jnp.moveaxis(x.reshape(-1, size, *x.shape[1:]), 0, -1)

  return jax.tree.map(to_chunks, tokens, recurrence.neutral)


def _summarize(recurrence, tokens, size, reverse):
  """The summaries of all chunks, in the last axis."""
  return _fold(
    recurrence, recurrence.element, _split(recurrence, tokens, size), reverse
  )


def _fold(recurrence, element, tokens, reverse):
  """The summary of all tokens, which are in the last axis."""
  first, rest = (-1, slice(None, -1)) if reverse else (0, slice(1, None))

  def body(earlier, token):
    return recurrence.compose(earlier, element(token)), None

  body = jax.checkpoint(body, prevent_cse=False)
  summary, _ = lax.scan(
    body,
    element(jax.tree.map(lambda x: x[first], tokens)),
    jax.tree.map(lambda x: x[rest], tokens),
    reverse=reverse,
  )
  return summary
