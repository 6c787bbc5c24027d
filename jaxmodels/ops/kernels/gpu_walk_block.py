"""What a block of the grid does in the kernel of `gpu_walk`.

It walks through all chunks with `LANES` columns of the state of one head.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

LANES = 32  # Columns of the state per block of the grid.
BLOCK = 64  # Rows that a group of warps multiplies at once.


class Source(NamedTuple):
  """An array of all chunks, and where a multiprocessor has one chunk of it.

  Attributes:
    array: in the memory of the device.
    place: in that of the multiprocessor.
    loaded: the barrier of the copies.
  """

  array: Any
  place: Any
  loaded: Any


class Stored(NamedTuple):
  """A matrix in the memory of a multiprocessor: float32, and its halves."""

  whole: Any
  halves: Any


def walk_block(
  gpu: Any, reverse: bool, count: int, heads: int, inputs: int, *refs: Any
) -> None:
  """The body of the kernel.

  Args:
    gpu: the module of Mosaic GPU.
    reverse: whether to start with the last chunk.
    count: n.
    heads: B H.
    inputs: the number of arrays of chunks.
    *refs: in the memory of the device: g in halves, b, the transpose of a in
      halves, d, perhaps w; the first state; the states before each chunk, u and
      the last state. In that of the multiprocessor: a place for one chunk of
      each array, their barriers, one more barrier, `Stored` for the state, and
      for u.
  """
  first, before, every_u, last = refs[inputs : inputs + 4]
  places, barriers, started, *stored = refs[inputs + 4 :]
  state, u = (Stored(*x) for x in stored)
  every = list(map(Source, refs[:inputs], places, barriers))
  reading, editing = every[:3], every[3:]
  head = lax.axis_index("head")

  def index(i):
    return (count - 1 - i if reverse else i) * heads + head

  def load(sources, i):
    for array, place, loaded in sources:
      gpu.copy_gmem_to_smem(_part(array, place, index(i)), place, loaded)

  def written(rows):
    *g, b = (source.place for source in reading)
    return _product(gpu, g, state, rows) + b[rows]

  def edited(rows):
    *a, d = (source.place for source in editing[:3])
    decay = lax.broadcast_in_dim(d[rows], (BLOCK, LANES), (0,))
    value = _product(gpu, a, u, rows) + decay * state.whole[rows]
    return sum((source.place[rows] for source in editing[3:]), value)

  def step(i, _):
    for place, results, sources, make, to in (
      (state, before, reading, written, u),
      (u, every_u, editing, edited, state),
    ):
      # The matrix to read is also a result.
      whole = place.whole
      gpu.copy_smem_to_gmem(whole, _part(results, whole, index(i)))
      for source in sources:
        gpu.barrier_wait(source.loaded)
      _store(gpu, make, to)

      @pl.when(i + 1 < count)
      def _(sources=sources):
        load(sources, i + 1)

  load(every, 0)
  whole = state.whole
  gpu.copy_gmem_to_smem(_part(first, whole, head), whole, started)
  gpu.barrier_wait(started)
  _store(gpu, lambda rows: whole[rows], state)
  lax.fori_loop(0, count, step, None)
  gpu.copy_smem_to_gmem(whole, _part(last, whole, head))
  gpu.wait_smem_to_gmem(0)


def _part(array, place, index):
  """Block `index` of the rows of an array, as large as its place."""
  if len(place.shape) == 1:
    return array.at[index]
  rows, width = place.shape
  columns: Any = slice(None)
  if width == LANES:
    columns = pl.ds(lax.axis_index("part") * LANES, LANES)
  return array.at[pl.ds(index * rows, rows), columns]


def _product(gpu, left, right, rows):
  """Some rows of `left right`, without the product of both low halves."""

  def run(total):
    high, low = (half.at[rows] for half in left)
    gpu.wgmma(total, high, right.halves[1])
    gpu.wgmma(total, low, right.halves[0])
    gpu.wgmma(total, high, right.halves[0])
    return total[...]

  return pl.run_scoped(run, gpu.ACC((BLOCK, LANES), jnp.float32))


def _store(gpu, make, to):
  """Stores the matrix whose rows are `make(rows)`."""
  # The copy before the latest one reads what is overwritten.
  gpu.wait_smem_to_gmem(1, wait_read_only=True)

  # A loop: the addresses for all rows at once would not fit in the registers.
  @pl.loop(0, to.whole.shape[0] // BLOCK)
  def _(block):
    rows = pl.ds(block * BLOCK, BLOCK)
    value = make(rows)
    high = value.astype(jnp.bfloat16)
    to.whole[rows] = value
    to.halves[0][rows] = high
    to.halves[1][rows] = (value - high.astype(jnp.float32)).astype(jnp.bfloat16)

  # Also waits until all threads have read what is loaded next.
  gpu.commit_smem()
