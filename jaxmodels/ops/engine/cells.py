"""Recurrences that run token by token, such as nonlinear cells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.chunks import Tree
from jaxmodels.ops.engine.recurrence import Family
from jaxmodels.ops.engine.segments import token_masks


def from_cell(
  cell: Callable[[Tree, Tree], tuple[Tree, Tree]],
  zero: Callable[[Tree], Tree],
) -> Family:
  """Makes a family from a cell, which may be any recurrence over tokens.

  For nonlinear recurrences, whose spans do not compose. With "chunked", a
  gradient stores one state per chunk, and the states of one chunk at a time.

  Args:
    cell: `(token, state) -> (y, state)` for one head. A token is a pytree like
      a chunk, without the axis of tokens.
    zero: `token -> state`, the state at the start of each segment.
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
  """Makes a `read_and_advance` that runs a chunk token by token.

  On a CPU this is faster if a chunk takes far more work than its tokens one by
  one. With "chunked", a gradient stores one state per chunk, and the states of
  one chunk at a time.
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
  """Makes a chunk of one token."""
  return jax.tree.map(lambda x: x[None], token)
