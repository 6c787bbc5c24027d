"""Gradients that cost less than those that JAX derives.

`with_gradient_of` computes a value by one function and its gradient by another:
the fastest form of a value is not always that of its gradient.

`tangent_scan`: the tangent of a recurrence whose outputs are its states is
itself a recurrence. From `S_t = T_t S_{t-1} + U_t` follows
`dS_t = T_t dS_{t-1} + (dT_t S_{t-1} + dU_t)`: the same transitions, and an
update made from the states before the tokens. So where every state is an
output, a gradient needs only inputs and outputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine.chunks import (
  Inputs,
  Tree,
  masks_from,
  over_heads,
  widen,
)

Through = Callable[[Any, Inputs, Tree], tuple[jax.Array, Tree]]


def with_gradient_of(
  value: Callable[..., Any], gradient: Callable[..., Any]
) -> Callable[..., Any]:
  """Computes by `value`, but by `gradient` where it is differentiated.

  A form that goes token by token, for instance, is fast for values, but stores
  every state for a gradient.

  Args:
    value: a function of pytrees of arrays.
    gradient: the same function, up to rounding.
  """
  function = jax.custom_jvp(value)

  @function.defjvp
  def _(primals, tangents):
    return jax.jvp(gradient, primals, tangents)

  return function


def tangent_scan(
  tangent: Callable[[Tree, Tree, Tree], Tree],
  through: Through,
  linear: Through,
  dtype: Any,
) -> Callable[[Inputs, Tree], tuple[jax.Array, Tree]]:
  """A run through chunks, differentiated as the run that its tangent is.

  Args:
    tangent: `(chunk, change, before) -> chunk`, of one head: the tokens of
      the tangent, from a chunk, its change and the state before each token.
    through: `(dtype, inputs, state) -> (y, last)`, the run; y
      [n, B, H, C, ...] are all its states, of dtype or, for None, as wide as
      the state [B, H, ...].
    linear: the same run of plain operations, for the tangent. A gradient
      transposes it, and JAX transposes what is inside a `custom_jvp` as it is
      written, without first taking apart what is linear and what is not.
    dtype: the first argument of `through`.

  Returns:
    `(inputs, state) -> (y, last)`.
  """
  function = jax.custom_jvp(functools.partial(through, dtype))

  @function.defjvp
  def _(primals, changes):
    (inputs, state), (change, state_change) = primals, changes
    y, last = tangent_scan(tangent, through, linear, None)(inputs, state)
    masks = masks_from(inputs.ids, y.shape[3])
    tokens = _lifted(tangent, masks)(
      widen(inputs.chunks), widen(change.chunks), masks, _before(y, state)
    )
    dy, dlast = linear(None, inputs._replace(chunks=tokens), state_change)
    as_asked = dtype or y.dtype
    return (y.astype(as_asked), last), (dy.astype(as_asked), dlast)

  return function


def _lifted(tangent, masks):
  """The tangent for [n, B, H]; a state of another segment counts as 0."""

  def masked(chunk, change, masks, before):
    return tangent(chunk, change, masks.cut(before))

  axis = None if masks.constant else 0
  return jax.vmap(over_heads(masked, masks), (0, 0, axis, 0))


def _before(y, state):
  """The state [n, B, H, C, ...] before each token, from those after them."""
  last = y[:, :, :, -1]
  entering = jnp.concatenate([state[None], last[:-1]])
  return jnp.concatenate([entering[:, :, :, None], y[:, :, :, :-1]], axis=3)
