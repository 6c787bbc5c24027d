"""The table as a picture: one colour per cell."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.drawing import picture_of
from train.files import paths
from train.results.page import Records
from train.results.table import Column, Table
from train.sweep.results import mean_and_range


def write(path: str, table: Table, records: Records) -> None:
  """Draws the finished cells; writes nothing if there are none.

  Args:
    path: The file, with a suffix such as ".png".
    table: Rows and columns.
    records: The finished cells.
  """
  columns = [
    x for x in table.columns if any(x.name == key[0] for key in records)
  ]
  rows = [
    x.name for x in table.rows if any(x.name == key[1] for key in records)
  ]
  if not rows or not columns:
    return
  means = np.full((len(rows), len(columns)), math.nan)
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      record = records.get((column.name, row))
      if record is not None:
        means[i, j] = mean_and_range(record["seeds"])[0]
  size = (1.6 + 0.9 * len(columns), 1.4 + 0.24 * len(rows))
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots()
  _draw(axes, means, columns)
  axes.set_xticks(range(len(columns)), [x.name for x in columns], rotation=40)
  axes.xaxis.tick_top()
  axes.set_yticks(range(len(rows)), rows)
  axes.tick_params(length=0, labelsize=8)
  paths.write("--output", path, picture_of(figure, "png"), follow=False)


def _draw(axes: Axes, means: np.ndarray, columns: list[Column]) -> None:
  """Colours each column from its worst cell (light) to its best one (dark)."""
  shades = np.full_like(means, math.nan)
  for j, column in enumerate(columns):
    known = means[:, j]
    if not np.isfinite(known).any():
      continue
    low, high = np.nanmin(known), np.nanmax(known)
    share = (known - low) / max(high - low, 1e-9)
    shades[:, j] = 1 - share if column.lower_is_better else share
  axes.imshow(shades, cmap="Blues", vmin=-0.1, vmax=1.4, aspect="auto")
  for (i, j), value in np.ndenumerate(means):
    if math.isfinite(value):
      axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
