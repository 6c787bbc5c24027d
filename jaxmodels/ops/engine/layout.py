"""The layout of chunks in a loop over them.

On a CPU, XLA copies an array twice when a transposed array enters a loop, and
twice again for an axis of length 1. A reshape of the chunk to `[B, H, C K]`
after the transpose avoids the unneeded copies.
"""

import dataclasses
import math

import jax

from jaxmodels.ops.engine.chunks import Tree
from jaxmodels.ops.engine.platform import platform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  """An array [B, H, C, K, ...] of one chunk, with the axes C and K joined.

  Attributes:
    data: [B, H, C K, ...], without B or H if their length is 1.
    shape: [B, H, C, K, ...], the shape of the array.
  """

  data: jax.Array
  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def pack(tree: Tree) -> Tree:
  """Makes `Rows` of arrays [B, H, C, ...] on a CPU; elsewhere returns them."""
  return jax.tree.map(_in_rows, tree) if platform() == "cpu" else tree


def unpack(tree: Tree) -> Tree:
  """Undoes `pack`."""

  def read(x):
    return x.data.reshape(x.shape) if isinstance(x, Rows) else x

  return jax.tree.map(read, tree, is_leaf=lambda x: isinstance(x, Rows))


def _in_rows(x):
  kept = (axis for axis in x.shape[:2] if axis != 1)
  return Rows(x.reshape(*kept, math.prod(x.shape[2:4]), *x.shape[4:]), x.shape)
