"""The table as a picture: one colour per cell, or one line per mixer."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from train.drawing import picture_of
from train.files import paths
from train.results.page import Records
from train.results.table import Column, Table

# One colour and marker per mixer.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#999933")
_MARKERS = "osD^"


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
  if table.over_state:
    figure = _over_state(table, records, columns[0])
  else:
    figure = _colours(rows, columns, records)
  paths.write("--output", path, picture_of(figure, "png"), follow=False)


def _colours(
  rows: list[str], columns: list[Column], records: Records
) -> Figure:
  means = np.full((len(rows), len(columns)), math.nan)
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      if (column.name, row) in records:
        means[i, j] = column.value(records[column.name, row]["seeds"])
  size = (1.6 + 0.9 * len(columns), 1.4 + 0.24 * len(rows))
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots()
  _draw(axes, means, columns)
  axes.set_xticks(range(len(columns)), [x.name for x in columns], rotation=40)
  axes.xaxis.tick_top()
  axes.set_yticks(range(len(rows)), rows)
  axes.tick_params(length=0, labelsize=8)
  return figure


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


def _over_state(table: Table, records: Records, column: Column) -> Figure:
  """The metric of a column over bytes of state, one line per mixer."""
  lines: dict[str, list[tuple[float, float]]] = {}
  for row in table.rows:
    if (column.name, row.name) in records:
      record = records[column.name, row.name]
      value = column.value(record["seeds"])
      point = record["state_bytes"] / 1024, value
      lines.setdefault(row.mixers or row.name, []).append(point)
  figure = Figure(figsize=(7.4, 4.4), layout="constrained")
  axes = figure.subplots()
  for number, (mixer, points) in enumerate(lines.items()):
    turn, place = divmod(number, len(_COLOURS))
    axes.plot(
      *zip(*sorted(points), strict=True),
      f"{_MARKERS[turn % len(_MARKERS)]}-",
      color=_COLOURS[place],
      label=mixer,
      markersize=4.5,
      linewidth=1.4,
    )
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
  axes.set_xlabel("state per sequence, KiB")
  axes.set_ylabel(column.title)
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside right upper", frameon=False, fontsize=8)
  return figure
