"""Pallas kernels for TPU: the walk of a matrix state through all chunks.

The mathematics inside the chunks is parallel and stays with XLA. A kernel
only walks the state from chunk to chunk: it stays in the chip's vector memory
for the whole sequence, and each chunk's factors are read, and the state that
enters it is written, exactly once. The gradient is the same walk in reverse
with the state's cotangent.

Inside the kernels states are [V, K], values first: decays of key channels
then lie along the lanes, and no matmul on the way from state to state needs a
transposed operand. Matmuls are float32 with float32 accumulation and
`Precision.HIGHEST`, which a TPU's matrix unit computes in six passes of
bfloat16: errors of the state would add up over the chunks.

On CPU the kernels are interpreted: slow, and for checking only. No chip has
run them yet; that they compile for TPU v5e and v6e is tested.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# What the blocks of a step may take, each held twice so that the next is
# fetched while one is worked on. A chip's vector memory is larger; the rest
# is for what the compiler holds between.
_VMEM_BYTES = 8 << 20
_TILE = 8


class DeltaFactors(NamedTuple):
  """How a chunk moves a state: `S' = diag(through) S + k^T u`.

  Where `u = from_v - from_k S` are the chunk's writes.

  Attributes:
    through: [K] or [1], the decay over the chunk.
    from_v: [C, V], the writes into an empty state.
    from_k: [C, K], less what a state recalls.
    k: [C, K], the keys, with their decay to the end of the chunk.
  """

  through: jax.Array
  from_v: jax.Array
  from_k: jax.Array
  k: jax.Array


def walk_decayed(
  segments: tuple[jax.Array, jax.Array], state: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Walks `S' = diag(through) S + update` through n chunks.

  Args:
    segments: through, the decays over the chunks [n, B, H, K] or
      [n, B, H, 1], and update [n, B, H, K, V].
    state: [B, H, K, V], enters the first chunk.

  Returns:
    the states [n, B, H, K, V] that enter the chunks, and the last one's
    [B, H, K, V] that leaves.
  """
  through, update = segments
  batch = state.shape[:2]
  entering, last = _walk_decayed(
    *_alike(
      _fold(_row(through, state), 1),
      _fold(update.mT, 1),
      _fold(state.mT, 0),
    )
  )
  return _unfold(entering, batch, 1).mT, _unfold(last, batch, 0).mT


def walk_delta(
  factors: DeltaFactors, state: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
  """Walks the state of the delta rule through n chunks.

  Args:
    factors: of all chunks, [n, B, H, ...].
    state: [B, H, K, V], enters the first chunk.

  Returns:
    the states [n, B, H, K, V] that enter the chunks with the writes u
    [n, B, H, C, V] of the chunks, and the state [B, H, K, V] that leaves.
  """
  through, from_v, from_k, k = factors
  batch = state.shape[:2]
  entering, u, last = _walk_delta(
    *_alike(
      _fold(_row(through, state), 1),
      _fold(from_v.mT, 1),
      _fold(from_k, 1),
      _fold(k, 1),
      _fold(state.mT, 0),
    )
  )
  entering, u = (_unfold(x, batch, 1).mT for x in (entering, u))
  return (entering, u), _unfold(last, batch, 0).mT


# The kernels. Refs hold one chunk of G heads: states, updates [G, V, K],
# through [G, 1, K], from_v, u [G, V, C], from_k, k [G, C, K]. The walking
# state is an output whose block stays the same from chunk to chunk.


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
  """Puts the first state into the walking one before the first chunk."""

  @pl.when(pl.program_id(2) == 0)
  def _():
    state[...] = first[...]


def _matmul(x, y, x_axis, y_axis):
  """Contracts two axes, head by head."""
  return lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((0,), (0,))),
    precision=lax.Precision.HIGHEST,
    preferred_element_type=x.dtype,
  )


# Their gradients.


@jax.custom_vjp
def _walk_decayed(through, update, first):
  return _walk(
    _decayed_forward,
    [(_KEYS, through), (_VALUES, update), (_STATE, first)],
    [(_VALUES, update), (_STATE, first)],
  )


def _walk_decayed_forward(through, update, first):
  entering, last = _walk_decayed(through, update, first)
  return (entering, last), (through, entering)


def _walk_decayed_backward(saved, cotangents):
  (through, entering), (d_entering, d_last) = saved, cotangents
  return _walk(
    _decayed_backward,
    [
      (_KEYS, through),
      (_VALUES, entering),
      (_VALUES, d_entering),
      (_STATE, d_last),
    ],
    [(_KEYS, through), (_VALUES, entering), (_STATE, d_last)],
    backward=True,
  )


_walk_decayed.defvjp(_walk_decayed_forward, _walk_decayed_backward)


@jax.custom_vjp
def _walk_delta(through, from_v, from_k, k, first):
  states = jax.ShapeDtypeStruct((through.shape[0], *first.shape), first.dtype)
  return _walk(
    _delta_forward,
    [
      (_KEYS, through),
      (_VALUES, from_v),
      (_KEYS, from_k),
      (_KEYS, k),
      (_STATE, first),
    ],
    [(_VALUES, states), (_VALUES, from_v), (_STATE, first)],
  )


def _walk_delta_forward(through, from_v, from_k, k, first):
  entering, u, last = _walk_delta(through, from_v, from_k, k, first)
  return (entering, u, last), (through, from_k, k, entering, u)


def _walk_delta_backward(saved, cotangents):
  through, from_k, k, entering, u = saved
  d_entering, d_u, d_last = cotangents
  return _walk(
    _delta_backward,
    [
      (_KEYS, through),
      (_KEYS, from_k),
      (_KEYS, k),
      (_VALUES, entering),
      (_VALUES, u),
      (_VALUES, d_entering),
      (_VALUES, d_u),
      (_STATE, d_last),
    ],
    [
      (_KEYS, through),
      (_VALUES, u),
      (_KEYS, from_k),
      (_KEYS, k),
      (_STATE, d_last),
    ],
    backward=True,
  )


_walk_delta.defvjp(_walk_delta_forward, _walk_delta_backward)


# How a kernel is laid over its arrays.

# The walking state [H, V, K]; chunks of something with a row a value
# [n, H, V, ...]; chunks of something without [n, H, ...].
_STATE, _VALUES, _KEYS = "state", "values", "keys"


def _walk(body, operands, results, backward=False):
  """Runs a kernel over all heads, blocks of values, and, in order, chunks.

  Args:
    body: the kernel.
    operands: (kind, array) each, one of them a state.
    results: (kind, an array that it is like) each.
    backward: from the last chunk to the first.

  Returns:
    the results.
  """
  state = next(x for kind, x in operands if kind == _STATE)
  count = next(x for kind, x in operands if kind != _STATE).shape[0]
  heads, rows = _blocks([*operands, *results], *state.shape[:2])
  parts = state.shape[1] // rows
  arrays = [x for _, x in operands]
  layout = functools.partial(_spec, heads, rows, count, backward)

  def shape(kind, x):  # Blocks of values each have their part in a sum.
    return jax.ShapeDtypeStruct(
      (parts, *x.shape) if kind == _KEYS else x.shape,
      state.dtype,
      manual_axis_type=jax.typeof(state).manual_axis_type,
    )

  def call(interpret):
    return pl.pallas_call(
      body,
      [shape(kind, x) for kind, x in results],
      grid=(state.shape[0] // heads, parts, count),
      in_specs=[layout(kind, x) for kind, x in operands],
      out_specs=[layout(kind, x, parts=True) for kind, x in results],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary")
      ),
      interpret=interpret,
      name=body.__name__.strip("_"),
    )

  outputs = lax.platform_dependent(*arrays, tpu=call(False), cpu=call(True))
  return tuple(
    jnp.sum(x, 0) if kind == _KEYS else x
    for (kind, _), x in zip(results, outputs, strict=True)
  )


def _block(kind, x, heads, rows):
  """The block [G, ...] of an array in one step."""
  if kind == _KEYS:
    return heads, *x.shape[2:]
  return heads, rows, x.shape[-1]


def _spec(heads, rows, count, backward, kind, x, parts=False):
  """The block of an array in one step, and where it lies."""
  block = _block(kind, x, heads, rows)

  def chunk(i):
    return count - 1 - i if backward else i

  if kind == _STATE:
    return pl.BlockSpec(block, lambda h, v, i: (h, v, 0))
  if kind == _VALUES:
    return pl.BlockSpec((None, *block), lambda h, v, i: (chunk(i), h, v, 0))
  if parts:
    return pl.BlockSpec(
      (None, None, *block), lambda h, v, i: (v, chunk(i), h, 0, 0)
    )
  return pl.BlockSpec((None, *block), lambda h, v, i: (chunk(i), h, 0, 0))


def _blocks(arrays, heads, values):
  """How many heads and values a step takes: most that memory has room for.

  Args:
    arrays: (kind, array) each.
    heads: H, of which a divisor is taken.
    values: V; all of them, or a divisor that fills whole tiles of 8 rows.
  """
  wanted = [(d, values) for d in _divisors(heads)]
  wanted += [(1, d) for d in _divisors(values) if d % _TILE == 0]
  for block in wanted:
    size = sum(math.prod(_block(kind, x, *block)) for kind, x in arrays)
    needed = 2 * size * arrays[0][1].dtype.itemsize
    if needed <= _VMEM_BYTES:
      return block
  raise ValueError(
    f'method "pallas": states of K = {arrays[0][1].shape[-1]} need '
    f"{needed / 2**20:.0f} MiB of a TPU's vector memory, more than "
    f"{_VMEM_BYTES >> 20} MiB; use another method or a smaller chunk_size"
  )


def _divisors(n):
  """Of n, the largest first."""
  return [d for d in range(n, 0, -1) if n % d == 0]


# From the engine's arrays to the kernels' and back.


def _row(through, state):
  """Decays [n, B, H, K] or [n, B, H, 1] as rows [n, B, H, 1, K]."""
  keys = state.shape[2]
  return jnp.broadcast_to(through, (*through.shape[:-1], keys))[..., None, :]


def _fold(x, axis):
  """Joins the axes B and H at an axis."""
  shape = x.shape
  joined = shape[axis] * shape[axis + 1]
  return x.reshape(*shape[:axis], joined, *shape[axis + 2 :])


def _unfold(x, batch, axis):
  """Parts the axes B and H again."""
  return x.reshape(*x.shape[:axis], *batch, *x.shape[axis + 1 :])


def _alike(*arrays):
  """Arrays of the last one's dtype, varying over the same mesh axes.

  Inside `shard_map` some may be equal on every device and others not.
  """
  varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  axes = frozenset().union(*varying)

  def cast(x, own):
    missing = tuple(axes - own)
    x = x.astype(arrays[-1].dtype)
    return lax.pcast(x, missing, to="varying") if missing else x

  return [cast(x, own) for x, own in zip(arrays, varying, strict=True)]
