"""The selective scan of Mamba in one kernel, forwards and backwards.

The state of a block of channels stays in the chip's vector memory for the whole
sequence, and no state of a single token is written to main memory. The gradient
stores one state per chunk. It recomputes the states of a chunk in vector
memory, and then goes through the chunk from its last token to its first.

Channels fill whole registers: of R * 128 channels, a number per channel is
[R, 128], and a state is [N, R, 128]. So no product has to be spread over lanes
or summed over them: x and dt of a token are one register per 1,024 channels,
and B and C are N scalars per token. Only the gradients of B and C are sums over
channels: the registers are added first, and the lanes of a chunk all at once.

Tokens come as [L, R * 128], where the channels of one token lie in R tiles of
memory. A load with a stride collects them. All numbers are float32; bfloat16
tokens are widened inside the kernel.

No chip has run this kernel. Tests interpret it on a CPU and compile it for TPU
v5e and v6e. With a TPU, `python -m benchmarks.chip --ops selective_scan`
compares it with the definition and times it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.engine.over_mesh import can_split, over_mesh
from jaxmodels.ops.engine.platform import takes_kernels, wide
from jaxmodels.ops.kernels.grid import (
  LANES,
  TILE,
  for_platform,
  round_up,
  vary_alike,
)
from jaxmodels.ops.kernels.selective_block import Grid, backward, forward

# Bytes of vector memory, of the 16 MiB that a kernel has on any chip. The
# compiler needs the rest for registers that it spills.
ROOM = 15 << 20
# Tokens per block: a tile of bfloat16 has 16 rows.
LEAST = 16


def selective_scan(
  tokens: Any,
  A: jax.Array,
  D: jax.Array | None,
  joined: jax.Array | None,
  state: jax.Array,
  negative: bool,
) -> tuple[jax.Array, jax.Array]:
  """Runs the selective scan over n chunks.

  Under `jit` with a mesh, the devices share the rows of the batch as far as
  they divide, and then the channels.

  Args:
    tokens: x, dt [B, n, C, D] and B, C [B, n, C, N].
    A: [D, N].
    D: [D], or None.
    joined: [B, n, C], whether a token is joined to the one before it; None if
      all are.
    state: [B, D, N], before the first chunk.
    negative: see `Grid`.

  Returns:
    y [B, n, C, D] in the dtype of x, and the state [B, D, N] after the last
    chunk.
  """
  return over_mesh(
    functools.partial(_on_one_device, negative),
    [*tokens, A, D, joined, state],
    ["B n C D"] * 2 + ["B n C N"] * 2 + ["D N", "D", "B n C", "B D N"],
    ("B n C D", "B D N"),
    {"B": 1, "D": LANES},
  )


def _on_one_device(negative, x, dt, B, C, A, D, joined, state):
  batch, count, size, channels = x.shape
  tiles = tiles_per_block(channels, A.shape[1])
  grid = Grid(
    tokens_per_block(size, A.shape[1], tiles),
    channels,
    A.shape[1],
    tiles,
    round_up(tiles, TILE),
    negative,
    joined is not None,
  )
  length = count * size
  blocks = -(-length // grid.size)

  def sequence(x, fill=0):  # [B, L, ...]; more tokens change no state.
    pad = [(0, 0), (0, blocks * grid.size - length)] + [(0, 0)] * (x.ndim - 3)
    x = x.reshape(batch, length, *x.shape[3:])
    return jnp.pad(x, pad, constant_values=fill)

  def scalars(x, fill=0):  # [B, L / C, 1, C N]
    x = sequence(x.astype(state.dtype), fill)
    return x.reshape(batch, blocks, 1, -1)

  skip = jnp.zeros(channels, state.dtype) if D is None else D
  y, last = _scan(
    grid,
    *vary_alike(
      sequence(x),
      sequence(dt),
      scalars(B),
      scalars(C),
      scalars(jnp.ones((batch, count, size)) if joined is None else joined, 1),
      _by_tile(A.T.astype(state.dtype) / math.log(2), grid),
      _by_tile(skip.astype(state.dtype), grid),
      _by_tile(state.mT, grid),
    ),
  )
  return y[:, :length].reshape(x.shape), _by_channel(last, grid).mT


def fits_selective_scan(tokens: Any, A: jax.Array) -> bool:
  """Whether the kernel takes these arrays on the target platform.

  It needs a TPU, float32 states, sizes known while tracing, the states of
  `LEAST` tokens in vector memory, and one device or a mesh in the context.

  Args:
    tokens: x, dt [..., D] and B, C [..., N].
    A: [D, N].
  """
  sizes = [n for x in (*tokens, A) for n in x.shape]
  return (
    takes_kernels()
    and wide(*tokens, A) == jnp.float32
    and all(isinstance(n, int) for n in sizes)
    and can_split()
    and _bytes(LEAST, A.shape[1], TILE) <= ROOM
  )


def tiles_per_block(channels: int, state: int) -> int:
  """The tiles of 128 channels per block: all, or as many as fill a register.

  Args:
    channels: D.
    state: N.
  """
  tiles = -(-channels // LANES)
  whole = tiles % TILE == 0 or tiles >= 2 * TILE
  return TILE if whole or _bytes(LEAST, state, tiles) > ROOM else tiles


def tokens_per_block(size: int, state: int, tiles: int) -> int:
  """The tokens of a chunk that are in vector memory at a time.

  Args:
    size: of the chunk; the result divides it by a power of two.
    state: N.
    tiles: of the channels of a block.

  Raises:
    ValueError: the states of `LEAST` tokens do not fit.
  """
  while size > LEAST and _bytes(size, state, tiles) > ROOM:
    size //= 2
  needed = _bytes(size, state, tiles)
  if needed > ROOM:
    raise ValueError(
      f'selective_scan: method "pallas" needs {needed / 2**20:.1f} MiB of a '
      f"TPU's vector memory for states of N = {state}, more than "
      f"{ROOM >> 20} MiB; use another method"
    )
  return size


def _bytes(size: int, state: int, tiles: int) -> int:
  """Vector memory of the gradient; blocks are there twice."""
  rows = round_up(tiles, TILE)
  one = state * rows
  blocks = 2 * (5 * size * tiles + 5 * one)
  scratch = size * one + one + 5 * size * rows + 2 * size * state
  return 4 * LANES * (blocks + scratch)


def _by_tile(x: jax.Array, grid: Grid) -> jax.Array:
  """[..., D] as [..., R, 128], with zeros for channels that are not there."""

  def pad(x, size):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size)])

  x = pad(x, -x.shape[-1] % LANES)
  x = x.reshape(*x.shape[:-1], -1, LANES)
  return pad(x.mT, -x.shape[-2] % grid.rows).mT


def _by_channel(x: jax.Array, grid: Grid) -> jax.Array:
  """Undoes `_by_tile`."""
  return x.reshape(*x.shape[:-2], -1)[..., : grid.channels]


# The calls.


def _call(body, grid, operands, results, scratch, backward=False):
  """Runs a body over all rows, blocks of channels, and chunks in order.

  Args:
    body: as above, without `grid`.
    grid: the sizes.
    operands: pairs of a kind and an array.
    results: pairs of a kind and the shape of an array.
    scratch: the numbers of rows of 128 in scratch memory.
    backward: whether to run from the last chunk to the first.
  """
  x, state = operands[0][1], operands[-1][1]
  count = x.shape[1] // grid.size
  parts = -(-grid.channels // grid.width)

  def spec(kind, x):
    memory = pltpu.SMEM if kind == "scalars" else pltpu.VMEM
    block, index = _BLOCKS[kind](grid, x.shape)

    def at(b, p, i):
      return index(b, p, count - 1 - i if backward else i)

    return pl.BlockSpec(block, at, memory_space=memory)

  def call(interpret):
    return pl.pallas_call(
      functools.partial(body, grid),
      [
        jax.ShapeDtypeStruct(
          x.shape,
          x.dtype,
          manual_axis_type=jax.typeof(state).manual_axis_type,
        )
        for _, x in results
      ],
      grid=(x.shape[0], parts, count),
      in_specs=[spec(*one) for one in operands],
      out_specs=[spec(*one) for one in results],
      scratch_shapes=[pltpu.VMEM((n, LANES), state.dtype) for n in scratch],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary")
      ),
      interpret=interpret,
      name=f"selective_{body.__name__}",
    )

  return for_platform(call, *(x for _, x in operands))


# The block and its index by the kind of an array.
_BLOCKS = {
  "tokens": lambda grid, shape: (
    (None, grid.size, grid.width),
    lambda b, p, i: (b, i, p),
  ),
  "scalars": lambda grid, shape: (
    (None, None, *shape[2:]),
    lambda b, p, i: (b, i, 0, 0),
  ),
  "sums": lambda grid, shape: (
    (None, None, None, *shape[3:]),
    lambda b, p, i: (b, p, i, 0, 0),
  ),
  "rates": lambda grid, shape: (
    (grid.state, grid.rows, LANES),
    lambda b, p, i: (0, p, 0),
  ),
  "skip": lambda grid, shape: ((grid.rows, LANES), lambda b, p, i: (p, 0)),
  "d_skip": lambda grid, shape: (
    (None, grid.rows, LANES),
    lambda b, p, i: (b, p, 0),
  ),
  "state": lambda grid, shape: (
    (None, grid.state, grid.rows, LANES),
    lambda b, p, i: (b, 0, p, 0),
  ),
  "states": lambda grid, shape: (
    (None, None, grid.state, grid.rows, LANES),
    lambda b, p, i: (b, i, 0, p, 0),
  ),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(grid, *given):
  y, last = _run_forward(grid, *given)
  return y, last


def _like(shape, dtype):
  return jax.ShapeDtypeStruct(shape, dtype)


def _operands(x, dt, B, C, joined, A, skip):
  kinds = ["tokens"] * 2 + ["scalars"] * 3 + ["rates", "skip"]
  return list(zip(kinds, (x, dt, B, C, joined, A, skip), strict=True))


def _run_forward(grid, x, dt, B, C, joined, A, skip, first, *more):
  """Returns y, the last state, and the results (kind, shape) in `more`."""
  return _call(
    forward,
    grid,
    [*_operands(x, dt, B, C, joined, A, skip), ("state", first)],
    [("tokens", x), ("state", first), *more],
    [grid.rows * grid.size] * 3,
  )


def _scan_forward(grid, *given):
  x, first = given[0], given[-1]
  batch, *rest = first.shape
  entering = _like((batch, x.shape[1] // grid.size, *rest), first.dtype)
  y, last, entering = _run_forward(grid, *given, ("states", entering))
  return (y, last), (given[:-1], entering)


def _scan_backward(grid, saved, cotangents):
  (given, entering), (dy, d_last) = saved, cotangents
  x, dt, B, _, joined, A, skip = given
  batch, parts = x.shape[0], -(-grid.channels // grid.width)
  sums = _like((batch, parts, *B.shape[1:]), B.dtype)
  sequence, one = grid.rows * grid.size, grid.state * grid.rows
  dx, d_dt, dB, dC, dA, d_skip, d_first = _call(
    backward,
    grid,
    [
      *_operands(*given),
      ("states", entering),
      ("tokens", dy),
      ("state", d_last),
    ],
    [
      ("tokens", x),
      ("tokens", dt),
      ("sums", sums),
      ("sums", sums),
      ("state", _like((batch, *A.shape), A.dtype)),
      ("d_skip", _like((batch, *skip.shape), A.dtype)),
      ("state", d_last),
    ],
    [sequence] * 5 + [(grid.size + 1) * one] + [grid.size * grid.state] * 2,
    backward=True,
  )
  dB, dC = (jnp.sum(x, 1) for x in (dB, dC))
  dA, d_skip = (jnp.sum(x, 0) for x in (math.log(2) * dA, d_skip))
  return dx, d_dt, dB, dC, jnp.zeros_like(joined), dA, d_skip, d_first


_scan.defvjp(_scan_forward, _scan_backward)
