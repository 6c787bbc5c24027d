"""Orders in which a sequence model reads the places of a grid.

A grid has height x width places, numbered row by row. An order is a
permutation of these numbers: step t of the sequence is the place `order[t]`, so
`x[order]` is the sequence, and `y[inverse(order)]` is the grid again.

The five curves and the eight directions are those of MambaAD (He et al. 2024,
arXiv:2404.06564). The first two directions of "sweep" are those of Vision
Mamba (Zhu et al. 2024, arXiv:2401.09417), and the first four those of VMamba's
cross-scan (Liu et al. 2024, arXiv:2401.10166).
"""

from collections.abc import Callable, Mapping

import numpy as np

from jaxmodels.ops.engine import checks

__all__ = ["CURVES", "DIRECTIONS", "inverse", "scan_order"]

# Two per view of the grid: along the curve, and back.
DIRECTIONS = 8


def scan_order(
  curve: str, height: int, width: int, direction: int = 0
) -> np.ndarray:
  """The order in which a curve visits the places of a grid.

  The curves are

  - "sweep": row by row, each from left to right;
  - "snake": row by row, every second one from right to left;
  - "zigzag": along the diagonals, every second one downwards, as in JPEG;
  - "z_order": Morton's curve, by the interleaved bits of row and column. In a
    grid whose sides are not one power of two, it skips the places outside;
  - "hilbert": Hilbert's curve, for a square grid whose side is a power of two.

  A direction is 2 v + r. The curve runs over a view of the grid: the grid
  itself (v = 0), its transpose (1), the grid turned clockwise by 90 degrees
  (2), or mirrored from left to right (3). With r = 1 it runs from the last
  place to the first. So the eight orders of a square grid whose side is a power
  of two are different, and they are those of all turned and mirrored grids.
  Departure from the code of MambaAD: it turns anticlockwise, and its last view
  is the transpose of that, so two of its eight orders along Hilbert's curve are
  there twice.

  Args:
    curve: A name of `CURVES`.
    height: The number of rows.
    width: The number of columns.
    direction: From 0 to 7.

  Returns:
    Place numbers [height * width], each once.

  Raises:
    ValueError: An argument is out of range, or the grid has no such curve.
  """
  checks.require(
    curve in CURVES,
    f"scan_order: curve must be one of {', '.join(CURVES)}, got {curve!r}",
  )
  for name, size in (("height", height), ("width", width)):
    checks.require(
      size >= 1, f"scan_order: {name} must be at least 1, got {size}"
    )
  checks.require(
    direction in range(DIRECTIONS),
    f"scan_order: direction must be from 0 to {DIRECTIONS - 1}, got "
    f"{direction}",
  )
  view, backwards = divmod(direction, 2)
  places = np.arange(height * width).reshape(height, width)
  places = _VIEWS[view](places)
  rows, columns = CURVES[curve](*places.shape)
  order = places[rows, columns]
  return order[::-1] if backwards else order


def inverse(order: np.ndarray) -> np.ndarray:
  """The step at which an order visits each place: `x[order][inverse]` is x."""
  steps = np.empty_like(order)
  steps[order] = np.arange(len(order))
  return steps


def _itself(grid: np.ndarray) -> np.ndarray:
  return grid


def _turned(grid: np.ndarray) -> np.ndarray:
  return np.rot90(grid, -1)


_VIEWS = (_itself, np.transpose, _turned, np.fliplr)

# The rows and the columns [height * width] of the places along a curve.
Path = tuple[np.ndarray, np.ndarray]


def _sweep(height: int, width: int) -> Path:
  rows, columns = np.divmod(np.arange(height * width), width)
  return rows, columns


def _snake(height: int, width: int) -> Path:
  rows, columns = _sweep(height, width)
  return rows, np.where(rows % 2, width - 1 - columns, columns)


def _zigzag(height: int, width: int) -> Path:
  rows, columns = _sweep(height, width)
  diagonal = rows + columns
  # Even diagonals go upwards, so their columns rise.
  order = np.lexsort((np.where(diagonal % 2, rows, columns), diagonal))
  return rows[order], columns[order]


def _z_order(height: int, width: int) -> Path:
  rows, columns = _sweep(height, width)
  code = np.zeros_like(rows)
  for bit in range(max(height, width).bit_length()):
    code |= (columns >> bit & 1) << 2 * bit
    code |= (rows >> bit & 1) << 2 * bit + 1
  order = np.argsort(code)
  return rows[order], columns[order]


def _hilbert(height: int, width: int) -> Path:
  checks.require(
    height == width and height & height - 1 == 0,
    "scan_order: the curve 'hilbert' needs a square grid whose side is a power "
    f"of two, got {height} x {width}: use 'snake', which also steps from "
    "neighbour to neighbour",
  )
  rows, columns = np.zeros(1, int), np.zeros(1, int)
  side = 1
  while side < height:
    last = side - 1
    # Four copies of the curve: the first transposed, the last transposed
    # along the other diagonal, so that each ends beside the next.
    rows, columns = (
      np.concatenate([columns, rows, rows + side, last - columns + side]),
      np.concatenate([rows, columns + side, columns + side, last - rows]),
    )
    side *= 2
  return rows, columns


CURVES: Mapping[str, Callable[[int, int], Path]] = {
  "sweep": _sweep,
  "snake": _snake,
  "zigzag": _zigzag,
  "z_order": _z_order,
  "hilbert": _hilbert,
}
