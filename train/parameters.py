"""Paths and ranks of a model's parameters, and their table."""

import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np

# Paths inside a scan over layers, whose parameters have a layer axis in front.
STACKED = r"(^|/)repeats/"

# A table of more parameters than this shows repeated layers once.
_LONG = 40
_WIDTH = 100


def path_of(keys: tuple[Any, ...]) -> str:
  """Returns the path of a leaf of a pytree: names joined by slashes."""
  return jax.tree_util.keystr(keys, simple=True, separator="/")


def is_stacked(path: str) -> bool:
  """Says whether a parameter has an axis of layers in front."""
  return re.search(STACKED, path) is not None


def rank(path: str, shape: tuple[int, ...]) -> int:
  """Returns the number of axes of a parameter, without that of the layers."""
  return len(shape) - is_stacked(path)


class _Row(NamedTuple):
  path: str
  shape: str
  dtype: str
  size: int


def parameter_table(params: Any) -> str:
  """Lists the parameters of a model, at most 100 columns wide.

  In a model of many parameters, those that differ only in the numbers of their
  path (the layers of a stack) are one row, with `*` for the numbers.

  Args:
    params: a pytree of arrays, or of anything with a shape and a dtype.

  Returns:
    A table of path, shape, dtype and count, and the totals below it.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  rows = [
    _Row(
      jax.tree_util.keystr(path, simple=True, separator="/"),
      " x ".join(map(str, leaf.shape)) or "scalar",
      np.dtype(leaf.dtype).name,
      math.prod(leaf.shape),
    )
    for path, leaf in leaves
  ]
  size = sum(
    row.size * leaf.dtype.itemsize
    for row, (_, leaf) in zip(rows, leaves, strict=True)
  )
  total = sum(row.size for row in rows)
  if len(rows) > _LONG:
    rows = _group(rows)
  head = ("parameter", "shape", "dtype", "count")
  cells = [head, *((*row[:3], f"{row.size:,}") for row in rows)]
  shape, dtype, count = (max(len(c[i]) for c in cells) for i in (1, 2, 3))
  room = _WIDTH - shape - dtype - count - 6
  width = min(max(len(cell[0]) for cell in cells), room)
  lines = [
    f"{_shorten(a, width):{width}}  {b:{shape}}  {c:{dtype}}  {d:>{count}}"
    for a, b, c, d in cells
  ]
  rule = "-" * len(lines[0])
  sums = f"{total:,} parameters in {len(leaves)} arrays, {size / 1e6:,.2f} MB"
  return "\n".join([lines[0], rule, *lines[1:], rule, sums])


def _group(rows: list[_Row]) -> list[_Row]:
  """Joins rows that differ only in the numbers of their paths."""
  groups: dict[tuple[str, str, str], list[_Row]] = {}
  for row in rows:
    pattern = re.sub(r"\d+", "*", row.path)
    groups.setdefault((pattern, row.shape, row.dtype), []).append(row)
  return [
    group[0]
    if len(group) == 1
    else _Row(
      f"{len(group)} x {pattern}", shape, dtype, sum(row.size for row in group)
    )
    for (pattern, shape, dtype), group in groups.items()
  ]


def _shorten(text: str, width: int) -> str:
  if len(text) <= width:
    return text
  # The end of a path says more than its middle.
  tail = (width - 1) * 2 // 3
  return text[: width - 1 - tail] + "…" + text[-tail:]
