"""The scans that the engine calls, their kernels, and their gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxmodels.ops.kernels.grid import (
  KEYS,
  STATE,
  TILE,
  VALUES,
  scan_chunks,
  vary_alike,
)


class DeltaFactors(NamedTuple):
  """The update of a state by a chunk: `S' = diag(through) S + k^T u`.

  The writes of the chunk are `u = from_v - from_k S`.

  Attributes:
    through: [K] or [1], the decay over the chunk.
    from_v: [C, V], the writes if S is zero.
    from_k: [C, K], the factor on S in the writes.
    k: [C, K], the keys, decayed to the end of the chunk.
  """

  through: jax.Array
  from_v: jax.Array
  from_k: jax.Array
  k: jax.Array


def scan_decayed(
  summaries: tuple[jax.Array, jax.Array], state: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Scans `S' = diag(through) S + update` over n chunks.

  Args:
    summaries: through, the decays over the chunks [n, B, H, K] or
      [n, B, H, 1], and update [n, B, H, K, V].
    state: [B, H, K, V], before the first chunk.

  Returns:
    the states [n, B, H, K, V] before each chunk, and the state [B, H, K, V]
    after the last one.
  """
  through, update = summaries
  entering, last = _scan_decayed(
    *_alike(
      _fold(_row(through, state), 1),
      _fold(_by_value(update), 1),
      _fold(_by_value(state), 0),
    )
  )
  return _by_key(entering, state, 1), _by_key(last, state, 0)


def scan_delta(
  factors: DeltaFactors, state: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
  """Scans the delta rule over n chunks.

  Args:
    factors: of all chunks, [n, B, H, ...].
    state: [B, H, K, V], before the first chunk.

  Returns:
    the states [n, B, H, K, V] before each chunk together with the writes u
    [n, B, H, C, V] of the chunks, and the state [B, H, K, V] after the last
    one.
  """
  through, from_v, from_k, k = factors
  entering, u, last = _scan_delta(
    *_alike(
      _fold(_row(through, state), 1),
      _fold(_by_value(from_v), 1),
      _fold(from_k, 1),
      _fold(k, 1),
      _fold(_by_value(state), 0),
    )
  )
  entering, u = (_by_key(x, state, 1) for x in (entering, u))
  return (entering, u), _by_key(last, state, 0)


# The kernels. Refs hold one chunk of G heads: states, updates [G, V, K],
# through [G, 1, K], from_v, u [G, V, C], from_k, k [G, C, K]. The state that a
# kernel updates is an output whose block is the same for all chunks.


def _decayed_forward(through, update, first, entering, state):
  _start(state, first)
  entering[...] = state[...]
  state[...] = through[...] * state[...] + update[...]


def _decayed_backward(
  through, entering, d_entering, d_last, d_through, d_update, d_state
):
  _start(d_state, d_last)
  d_update[...] = d_state[...]
  d_through[...] = jnp.sum(d_state[...] * entering[...], 1, keepdims=True)
  d_state[...] = through[...] * d_state[...] + d_entering[...]


def _delta_forward(through, from_v, from_k, k, first, entering, u, state):
  _start(state, first)
  entering[...] = state[...]
  u[...] = from_v[...] - _matmul(state[...], from_k[...], 2, 2)
  state[...] = through[...] * state[...] + _matmul(u[...], k[...], 2, 1)


def _delta_backward(
  through, from_k, k, entering, u, d_entering, d_u, d_last,
  d_through, d_from_v, d_from_k, d_k, d_state,
):  # fmt: skip
  _start(d_state, d_last)
  d_from_v[...] = d_u[...] + _matmul(d_state[...], k[...], 2, 2)
  d_k[...] = _matmul(u[...], d_state[...], 1, 1)
  d_from_k[...] = -_matmul(d_from_v[...], entering[...], 1, 1)
  d_through[...] = jnp.sum(d_state[...] * entering[...], 1, keepdims=True)
  d_state[...] = (
    through[...] * d_state[...]
    - _matmul(d_from_v[...], from_k[...], 2, 1)
    + d_entering[...]
  )


def _start(state, first):
  """Copies the initial state to the output before the first chunk."""

  @pl.when(pl.program_id(2) == 0)
  def _():
    state[...] = first[...]


def _matmul(x, y, x_axis, y_axis):
  """Contracts two axes, for each head."""
  return lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((0,), (0,))),
    precision=lax.Precision.HIGHEST,
    preferred_element_type=x.dtype,
  )


# The gradients of the kernels.


@jax.custom_vjp
def _scan_decayed(through, update, first):
  return scan_chunks(
    _decayed_forward,
    [(KEYS, through), (VALUES, update), (STATE, first)],
    [(VALUES, update), (STATE, first)],
  )


def _scan_decayed_forward(through, update, first):
  entering, last = _scan_decayed(through, update, first)
  return (entering, last), (through, entering)


def _scan_decayed_backward(saved, cotangents):
  (through, entering), (d_entering, d_last) = saved, cotangents
  return scan_chunks(
    _decayed_backward,
    [
      (KEYS, through),
      (VALUES, entering),
      (VALUES, d_entering),
      (STATE, d_last),
    ],
    [(KEYS, through), (VALUES, entering), (STATE, d_last)],
    backward=True,
  )


_scan_decayed.defvjp(_scan_decayed_forward, _scan_decayed_backward)


@jax.custom_vjp
def _scan_delta(through, from_v, from_k, k, first):
  states = jax.ShapeDtypeStruct((through.shape[0], *first.shape), first.dtype)
  return scan_chunks(
    _delta_forward,
    [
      (KEYS, through),
      (VALUES, from_v),
      (KEYS, from_k),
      (KEYS, k),
      (STATE, first),
    ],
    [(VALUES, states), (VALUES, from_v), (STATE, first)],
  )


def _scan_delta_forward(through, from_v, from_k, k, first):
  entering, u, last = _scan_delta(through, from_v, from_k, k, first)
  return (entering, u, last), (through, from_k, k, entering, u)


def _scan_delta_backward(saved, cotangents):
  through, from_k, k, entering, u = saved
  d_entering, d_u, d_last = cotangents
  return scan_chunks(
    _delta_backward,
    [
      (KEYS, through),
      (KEYS, from_k),
      (KEYS, k),
      (VALUES, entering),
      (VALUES, u),
      (VALUES, d_entering),
      (VALUES, d_u),
      (STATE, d_last),
    ],
    [
      (KEYS, through),
      (VALUES, u),
      (KEYS, from_k),
      (KEYS, k),
      (STATE, d_last),
    ],
    backward=True,
  )


_scan_delta.defvjp(_scan_delta_forward, _scan_delta_backward)


# Conversion between the arrays of the engine and those of the kernels.


def _row(through, state):
  """Decays [n, B, H, K] or [n, B, H, 1] as rows [n, B, H, 1, K]."""
  keys = state.shape[2]
  return jnp.broadcast_to(through, (*through.shape[:-1], keys))[..., None, :]


def _fold(x, axis):
  """Joins the axes B and H at an axis."""
  shape = x.shape
  joined = shape[axis] * shape[axis + 1]
  return x.reshape(*shape[:axis], joined, *shape[axis + 2 :])


def _by_value(x):
  """Moves values first, [..., V] to [V, ...], and pads V to whole tiles."""
  x = x.mT
  pad = [(0, 0)] * (x.ndim - 2) + [(0, -x.shape[-2] % TILE), (0, 0)]
  return jnp.pad(x, pad)


def _by_key(x, state, axis):
  """Moves values last again, and splits B and H as in the state."""
  x = x.reshape(*x.shape[:axis], *state.shape[:2], *x.shape[axis + 1 :])
  return x.mT[..., : state.shape[-1]]


def _alike(*arrays):
  """Gives arrays the dtype of the last one and the same varying mesh axes."""
  return vary_alike(*(x.astype(arrays[-1].dtype) for x in arrays))
