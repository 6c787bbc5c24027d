"""The grid of a kernel: heads, blocks of values, and chunks in order."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Kinds of arrays: the state [H, V, K] that the kernel updates; chunks with one
# row per value [n, H, V, ...]; chunks without such rows [n, H, ...].
STATE, VALUES, KEYS = "state", "values", "keys"
TILE, LANES = 8, 128  # A tile of memory; a smaller block occupies a whole tile.

# Bytes for the blocks of one step. Each block is stored twice, so that the next
# one is fetched during the computation. A chip has at least 16 MiB for a
# kernel; the compiler needs the rest for temporary values.
ROOM = 8 << 20

Array = jax.Array | jax.ShapeDtypeStruct


def scan_chunks(
  body: Callable[..., None],
  operands: Sequence[tuple[str, jax.Array]],
  results: Sequence[tuple[str, Array]],
  backward: bool = False,
) -> tuple[jax.Array, ...]:
  """Runs a kernel over all heads and blocks of values, with chunks in order.

  Results of the kind `KEYS` are summed over blocks of values.

  Args:
    body: the kernel of one chunk of G heads, with one ref per operand and
      result. A ref of a state stays the same from chunk to chunk.
    operands: pairs (kind, array), one of which is a state.
    results: pairs (kind, array of the same shape).
    backward: whether to run from the last chunk to the first.

  Raises:
    ValueError: a block does not fit in a chip's vector memory.
  """
  state = next(x for kind, x in operands if kind == STATE)
  count = next(x for kind, x in operands if kind != STATE).shape[0]
  heads, rows = blocks([*operands, *results], *state.shape[:2])
  parts = state.shape[1] // rows
  layout = functools.partial(_spec, heads, rows, count, backward)

  def call(interpret):
    return pl.pallas_call(
      body,
      [_result(kind, x, parts, state) for kind, x in results],
      grid=(state.shape[0] // heads, parts, count),
      in_specs=[layout(kind, x) for kind, x in operands],
      out_specs=[layout(kind, x, parts=True) for kind, x in results],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary")
      ),
      interpret=interpret,
      name=body.__name__.strip("_"),
    )

  outputs = for_platform(call, *(x for _, x in operands))
  return tuple(
    jnp.sum(x, 0) if kind == KEYS else x
    for (kind, _), x in zip(results, outputs, strict=True)
  )


def for_platform(
  call: Callable[[bool], Callable[..., Any]], *arrays: jax.Array
) -> Any:
  """Runs `call(interpret)` on arrays: compiled on a TPU, interpreted on a CPU.

  The platform is that of the compilation, which may differ from this one.
  """
  return lax.platform_dependent(*arrays, tpu=call(False), cpu=call(True))


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
  """Gives arrays the same varying mesh axes.

  Inside `shard_map`, some may be replicated and others vary by device.
  """
  varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  axes = frozenset().union(*varying)

  def cast(x, own):
    missing = tuple(axes - own)
    return lax.pcast(x, missing, to="varying") if missing else x

  return [cast(x, own) for x, own in zip(arrays, varying, strict=True)]


def blocks(
  arrays: Sequence[tuple[str, Array]], heads: int, values: int
) -> tuple[int, int]:
  """The largest numbers of heads and values per step that fit in `ROOM`.

  With more heads per step there are fewer steps, and their matmuls are
  independent.

  Args:
    arrays: pairs (kind, array).
    heads: H; the result is a divisor of it.
    values: V; the result is V, or a divisor of it in whole tiles.
  """
  candidates = [(d, values) for d in _divisors(heads)]
  candidates += [(1, d) for d in _divisors(values) if d % TILE == 0]
  for block in candidates:
    size = sum(_tiled(_block(kind, x, *block)) for kind, x in arrays)
    needed = 2 * size * arrays[0][1].dtype.itemsize
    if needed <= ROOM:
      return block
  raise ValueError(
    f'method "pallas": states of K = {arrays[0][1].shape[-1]} need '
    f"{needed / 2**20:.1f} MiB of a TPU's vector memory, more than "
    f"{ROOM >> 20} MiB; use another method or a smaller chunk_size"
  )


def _tiled(block: tuple[int, ...]) -> int:
  """Elements in the tiles that a block occupies."""
  *leading, rows, lanes = block
  return math.prod(leading) * _up(rows, TILE) * _up(lanes, LANES)


def _up(n, step):
  """Rounds n up to a multiple of step."""
  return -(-n // step) * step


def _result(kind, x, parts, state):
  """The array that a kernel returns; for `KEYS`, one partial sum per block."""
  return jax.ShapeDtypeStruct(
    (parts, *x.shape) if kind == KEYS else x.shape,
    state.dtype,
    manual_axis_type=jax.typeof(state).manual_axis_type,
  )


def _divisors(n):
  """The divisors of n, the largest first."""
  return [d for d in range(n, 0, -1) if n % d == 0]


def _block(kind, x, heads, rows):
  """The block [G, ...] of an array in one step."""
  if kind == KEYS:
    return heads, *x.shape[2:]
  return heads, rows, x.shape[-1]


def _spec(heads, rows, count, backward, kind, x, parts=False):
  """The shape and index of an array's block in each step."""
  block = _block(kind, x, heads, rows)

  def chunk(i):
    return count - 1 - i if backward else i

  if kind == STATE:
    return pl.BlockSpec(block, lambda h, v, i: (h, v, 0))
  if kind == VALUES:
    return pl.BlockSpec((None, *block), lambda h, v, i: (chunk(i), h, v, 0))
  if parts:
    return pl.BlockSpec(
      (None, None, *block), lambda h, v, i: (v, chunk(i), h, 0, 0)
    )
  return pl.BlockSpec((None, *block), lambda h, v, i: (chunk(i), h, 0, 0))
