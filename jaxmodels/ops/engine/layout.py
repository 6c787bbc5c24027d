"""How the chunks of a sequence lie in a loop over them.

XLA on a CPU copies a sequence twice where its axes are turned and the result
goes into a loop as it is, once of that for nothing; and as often for an axis
of one. Both are gone if what is turned is then read as other axes: so a
chunk's tokens lie in one row with what is behind them.
"""

import dataclasses
import math

import jax

from jaxmodels.ops.engine.chunks import Tree
from jaxmodels.ops.engine.platform import platform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  """An array [B, H, C, ...] of one chunk, laid out.

  Attributes:
    data: [B, H, C K, ...] for [B, H, C, K, ...]; without B or H of one.
    shape: of the array.
  """

  data: jax.Array
  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def pack(tree: Tree) -> Tree:
  """Arrays [B, H, C, ...] in rows, on a CPU; elsewhere as they are."""
  return jax.tree.map(_in_rows, tree) if platform() == "cpu" else tree


def unpack(tree: Tree) -> Tree:
  """The arrays that `pack` was given."""

  def read(x):
    return x.data.reshape(x.shape) if isinstance(x, Rows) else x

  return jax.tree.map(read, tree, is_leaf=lambda x: isinstance(x, Rows))


def _in_rows(x):
  kept = (axis for axis in x.shape[:2] if axis != 1)
  return Rows(x.reshape(*kept, math.prod(x.shape[2:4]), *x.shape[4:]), x.shape)
