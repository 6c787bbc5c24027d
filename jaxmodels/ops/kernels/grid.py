"""What the kernels share: tiles, platforms, and axes of a mesh."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

TILE, LANES = 8, 128  # A tile of memory; a smaller block occupies a whole tile.


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


def tiled(shape: Sequence[int]) -> int:
  """Elements in the tiles that a block occupies."""
  *leading, rows, lanes = shape
  return math.prod(leading) * round_up(rows, TILE) * round_up(lanes, LANES)


def round_up(n: int, step: int) -> int:
  """Rounds n up to a multiple of step."""
  return -(-n // step) * step
