"""What the kernel of the selective scan computes for one block.

A block is C tokens of one row of the batch, and some channels. Refs hold one
block: x, dt, y [C, D]; B, C [1, C N] and joined [1, C], which are scalars;
states and A [N, R, 128]; the skip [R, 128]. In scratch memory, the channels of
the tokens are [R C, 128], tile after tile. A is divided by log 2, because a
TPU's exponential has the base 2.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxmodels.ops.kernels.grid import LANES, TILE

# Tokens per step of a loop: the scheduler overlaps them.
UNROLL = 2


class Grid(NamedTuple):
  """The blocks of the kernel.

  Attributes:
    size: C, the tokens per block.
    channels: D.
    state: N.
    tiles: channels of a block over 128.
    rows: R, tiles rounded up to whole registers.
    negative: whether factors are `2 exp(dt A) - 1` in place of `exp(dt A)`.
    packed: whether there are segments.
  """

  size: int
  channels: int
  state: int
  tiles: int
  rows: int
  negative: bool
  packed: bool

  @property
  def width(self) -> int:
    """The channels of a block."""
    return self.tiles * LANES


def forward(grid, x, dt, B, C, joined, A, skip, first, y, state, *others):
  """Writes y, and the state after the block in place of that before it."""
  *entering, xs, dts, ys = others  # The states of chunks, for a gradient.
  _start(state, first)
  for ref in entering:
    ref[...] = state[...]
  _spread(grid, x, xs)
  _spread(grid, dt, dts)

  def step(t, carry):
    x, dt = _row(grid, xs, t), _row(grid, dts, t)
    write = dt * x
    terms = [skip[...] * x]
    for n in range(grid.state):
      h = _joined(grid, joined, t, state[n])
      h = _factor(grid, dt * A[n])[0] * h + write * B[0, t * grid.state + n]
      state[n] = h
      terms.append(h * C[0, t * grid.state + n])
    _set_row(grid, ys, t, _add(terms))
    return carry

  lax.fori_loop(0, grid.size, step, 0, unroll=UNROLL)
  _collect(grid, ys, y)


def backward(
  grid, x, dt, B, C, joined, A, skip, entering, dy, d_last,
  dx, d_dt, dB, dC, dA, d_skip, d_state,
  xs, dts, dys, dxs, d_dts, states, sums_B, sums_C,
):  # fmt: skip
  """Writes the cotangents, from the states that it computes again."""
  _start(d_state, d_last)
  _start(dA, None)
  _start(d_skip, None)
  for ref, scratch in ((x, xs), (dt, dts), (dy, dys)):
    _spread(grid, ref, scratch)
  _recompute(grid, xs, dts, B, joined, A, entering, states)
  _sum_tiles(grid, states, sums_C, dys)

  def step(i, carry):
    t = grid.size - 1 - i
    x, dt, dy = (_row(grid, ref, t) for ref in (xs, dts, dys))
    d_write, d_rate = [], []
    for n in range(grid.state):
      g = d_state[n] + dy * C[0, t * grid.state + n]
      # The state after the token is no longer needed.
      states[_at(grid, t + 1, n), :] = g
      d_write.append(g * B[0, t * grid.state + n])
      a, slope = _factor(grid, dt * A[n])
      d_state[n] = _joined(grid, joined, t, a * g)
      h = _joined(grid, joined, t, states[_at(grid, t, n), :])
      d = slope * g * h
      d_rate.append(d * A[n])
      dA[n] += d * dt
    total = _add(d_write)
    _set_row(grid, dxs, t, total * dt + skip[...] * dy)
    _set_row(grid, d_dts, t, math.log(2) * _add(d_rate) + total * x)
    d_skip[...] += x * dy
    _set_row(grid, xs, t, dt * x)  # The factor of the sum for B.
    return carry

  lax.fori_loop(0, grid.size, step, 0, unroll=UNROLL)
  _sum_tiles(grid, states, sums_B, xs)
  _collect(grid, dxs, dx)
  _collect(grid, d_dts, d_dt)
  dB[...] = _sum_lanes(sums_B)
  dC[...] = _sum_lanes(sums_C)


def _recompute(grid, xs, dts, B, joined, A, entering, states):
  """Writes the states before each token, and the last one after it."""
  for n in range(grid.state):
    states[_at(grid, 0, n), :] = entering[n]

  def step(t, carry):
    x, dt = _row(grid, xs, t), _row(grid, dts, t)
    write = dt * x
    for n in range(grid.state):
      h = _joined(grid, joined, t, states[_at(grid, t, n), :])
      h = _factor(grid, dt * A[n])[0] * h + write * B[0, t * grid.state + n]
      states[_at(grid, t + 1, n), :] = h
    return carry

  lax.fori_loop(0, grid.size, step, 0, unroll=UNROLL)


def _at(grid, t, n):
  """The rows of number n of the state before token t."""
  first = (t * grid.state + n) * grid.rows
  return pl.ds(pl.multiple_of(first, TILE), grid.rows)


def _start(ref, first):
  """Sets an output that stays from block to block, before the first."""

  @pl.when(pl.program_id(2) == 0)
  def _():
    ref[...] = jnp.zeros(ref.shape, ref.dtype) if first is None else first[...]


def _factor(grid, rate):
  """The factor on the state, and its slope by `dt A`."""
  a = jnp.exp2(rate)
  return (2 * a - 1, 2 * a) if grid.negative else (a, a)


def _joined(grid, joined, t, h):
  """A state, or zero where token t starts a segment."""
  return jnp.where(joined[0, t] > 0, h, 0) if grid.packed else h


def _add(terms):
  """A sum in pairs, which is a short chain of additions."""
  while len(terms) > 1:
    pairs = [sum(terms[i : i + 2]) for i in range(0, len(terms), 2)]
    terms = pairs
  return terms[0]


def _spread(grid, ref, scratch):
  """Copies tokens [C, D] to scratch [R C, 128], zero where there are none."""
  size = grid.size
  whole = grid.channels % grid.width == 0
  here = pl.program_id(1) * grid.width
  for tile in range(grid.rows):
    if tile < grid.tiles:
      lanes = slice(tile * LANES, (tile + 1) * LANES)
      part = ref[:, lanes].astype(scratch.dtype)
    else:
      part = jnp.zeros((size, LANES), scratch.dtype)
    if tile < grid.tiles and not whole:
      lane = lax.broadcasted_iota(jnp.int32, part.shape, 1)
      part = jnp.where(here + tile * LANES + lane < grid.channels, part, 0)
    scratch[tile * size : (tile + 1) * size, :] = part


def _collect(grid, scratch, ref):
  """Copies scratch [R C, 128] to tokens [C, D]."""
  size = grid.size
  for tile in range(grid.tiles):
    lanes = slice(tile * LANES, (tile + 1) * LANES)
    ref[:, lanes] = scratch[tile * size : (tile + 1) * size, :].astype(
      ref.dtype
    )


def _row(grid, scratch, t):
  """The channels [R, 128] of a token."""
  return scratch[pl.ds(t, grid.rows, stride=grid.size), :]


def _set_row(grid, scratch, t, value):
  scratch[pl.ds(t, grid.rows, stride=grid.size), :] = value


def _sum_tiles(grid, states, sums, factors):
  """Sums `state * factor` over tiles, at all tokens: [N, R, 128] to [N, 128].

  The states are those after each token.
  """
  count, rows = grid.state, grid.rows

  def step(t, carry):
    first = (t + 1) * count * rows
    terms = [
      states[pl.ds(first + r, count, stride=rows), :]
      * factors[pl.ds(r * grid.size + t, 1), :]
      for r in range(grid.tiles)
    ]
    sums[pl.ds(t * count, count), :] = _add(terms)
    return carry

  lax.fori_loop(0, grid.size, step, 0, unroll=UNROLL)


def _sum_lanes(sums):
  """Sums [C N, 128] over lanes, to [1, C N]."""
  return jnp.sum(sums[...].T, axis=0, keepdims=True)
