"""Scans over elements that compose, when the state is any pytree.

A span of tokens acts on the state that enters it as one `Summary`, and
summaries compose. What runs many tokens or chunks at once has them side by
side, in the last axis (`jaxmodels.ops.kalman.small_matrices`).
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
  """A recurrence over tokens; of one token, or of many side by side.

  Attributes:
    element: `token -> Summary`.
    compose: `(earlier, later) -> Summary`.
    advance: `(summary, state) -> state`.
    step: `(token, state) -> state`, as `advance` with the token's element,
      and cheaper.
    neutral: a token that leaves every state as it is.
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
  """The state that enters and the state after every token.

  Args:
    recurrence: the recurrence.
    tokens: [L, ...].
    state: the one that enters.
    method: "recurrent", token after token; "chunk_parallel", chunks side by
      side, in about 3 sqrt(L) steps; "associative", in log L.
    axis_name: mesh axis over which L is sharded, or None.
    reverse: from the last token to the first.

  Returns:
    the state that enters, this device's shard where there are shards, and all
    [L, ...] after it.
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
  """Tokens [L, ...] side by side: [..., L]."""
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), tree)


def along(tree: Tree) -> Tree:
  """And back."""
  return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)


# The ways through the tokens.


def _step_through(recurrence, tokens, state, reverse):
  def body(state, token):
    state = recurrence.step(token, state)
    return state, state

  # The gradient keeps the states, and not what a step makes of them.
  body = jax.checkpoint(body, prevent_cse=False)
  return lax.scan(body, state, tokens, reverse=reverse)[1]


def _associate(recurrence, tokens, state, reverse):
  """All states from the one that enters and the prefixes of the elements."""

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
  """Finds the state that enters each chunk, then steps through all at once."""
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
  """The summaries of all chunks, side by side."""
  return _fold(
    recurrence, recurrence.element, _split(recurrence, tokens, size), reverse
  )


def _fold(recurrence, element, tokens, reverse):
  """The summary of all tokens, side by side as they are."""
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
