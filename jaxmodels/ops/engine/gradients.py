"""Gradients that cost less than those that JAX derives.

`with_gradient_of` computes the value in one form and the gradient in another.

`tangent_scan` differentiates a recurrence whose outputs are all its states. Its
tangent is a recurrence too: from `S_t = T_t S_{t-1} + U_t` follows
`dS_t = T_t dS_{t-1} + (dT_t S_{t-1} + dU_t)`. The transitions are the same, and
the update depends on the state before each token. So a gradient needs to store
only inputs and outputs.
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
  """Computes `value`, but `gradient` where the result is differentiated.

  The fastest form for a value may be slow for a gradient: a scan over tokens
  does little work, but its gradient stores every state.

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
  """A scan over chunks whose derivative is a second scan, of the tangent.

  Args:
    tangent: `(chunk, change, before) -> chunk`, for one head: the tokens of
      the tangent, from a chunk, its tangent (`change`) and the state before
      each token.
    through: `(dtype, inputs, state) -> (y, last)`, the scan. y
      [n, B, H, C, ...] holds every state, in `dtype` or, for None, in the dtype
      of the state [B, H, ...].
    linear: the same scan for the tangent, without a `custom_jvp` inside. A
      gradient transposes this scan, and JAX transposes the body of a
      `custom_jvp` as written, without first separating its linear part.
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
  """`tangent` for [n, B, H]; the state before a new segment counts as 0."""

  def masked(chunk, change, masks, before):
    return tangent(chunk, change, masks.cut(before))

  axis = None if masks.constant else 0
  return jax.vmap(over_heads(masked, masks), (0, 0, axis, 0))


def _before(y, state):
  """The states [n, B, H, C, ...] before each token, from those after it."""
  last = y[:, :, :, -1]
  entering = jnp.concatenate([state[None], last[:-1]])
  return jnp.concatenate([entering[:, :, :, None], y[:, :, :, :-1]], axis=3)
