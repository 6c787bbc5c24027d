"""Draws the curves of one or more runs: `python -m train.report RUNDIR...`.

The numbers come from `metrics.jsonl` of each run, also of a run of
`train.reinforcement`. Every metric of the validation has a panel; panels
without numbers are left out. Runs that differ only in their seeds become one
curve, their mean, with a band from the least to the most. Colours follow the
config field that was swept. `--table FILE.md` and `--json FILE.json` write the
final values. The directory of replicas, or of a sweep, stands for all its runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
  EngFormatter,
  FuncFormatter,
  MaxNLocator,
  NullLocator,
)

from train import flags
from train.command import main_with_errors
from train.drawing import (
  POINTS,
  Style,
  dress,
  limits,
  means,
  picture_of,
  pieces,
  plain,
  styles_of,
  thin,
)
from train.errors import UserError, one_line
from train.files import paths
from train.files.runs import runs_in
from train.panels import LOSS, PANELS, READ, Panel, panels_of
from train.streams import emit, log
from train.summary import (
  BITS,
  BITS_PER_BYTE,
  RETURN,
  Group,
  Run,
  final_values,
  group_runs,
  markdown,
)

_GREY = "#666666"
_LINE_WIDTH = 1.8
# Losses on a logarithmic axis that spans more than this factor have ticks at
# powers of ten.
_DECADE = 10


def write_report(
  workdirs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> None:
  """Draws the curves of runs as a picture, in one colour per config.

  Args:
    workdirs: the runs' folders.
    output: the file to write; its suffix gives the format, such as ".png".

  Raises:
    UserError: if a run is missing, has nothing to draw, or has lines that are
      not metrics, or if the picture cannot be written.
  """
  output = paths.check_output("--output", os.fspath(output))
  kinds = Figure().canvas.get_supported_filetypes()
  kind = os.path.splitext(output)[1][1:].lower()
  if kind not in kinds:
    raise UserError(
      f"--output={output} must end in one of .{', .'.join(sorted(kinds))}"
    )
  runs = [Run(workdir, READ) for workdir in workdirs]
  panels = panels_of(runs)
  if not panels:
    known = sorted({*(panel.metric for panel in PANELS), *dict(LOSS)})
    raise UserError(
      f"nothing to draw for {', '.join(map(str, workdirs))}: the metrics have"
      f" none of {', '.join(known)}"
    )
  groups = group_runs(runs)
  styles = styles_of(groups)
  columns = min(2, len(panels))  # More are too narrow to read on a page.
  rows = -(-len(panels) // columns)
  figure = Figure(
    figsize=(4.6 * columns, 2.8 * rows + 0.6), layout="constrained"
  )
  grid = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes, panel in zip(grid, panels, strict=False):
    _draw(axes, panel, groups, styles)
  for axes in grid[len(panels) :]:
    axes.remove()
  _legend(figure, groups, styles, panels)
  try:
    picture = picture_of(figure, kind)
  # Some formats need other programs, such as LaTeX.
  except Exception as error:
    raise UserError(f"cannot draw {output}: {one_line(error)}") from error
  # Somebody else may have made the run, with a link under this name.
  own = pathlib.Path(output).parent in map(pathlib.Path, workdirs)
  paths.write("--output", output, picture, follow=not own)


def _draw(
  axes: Axes,
  panel: Panel,
  groups: Sequence[Group],
  styles: Sequence[Style],
) -> None:
  """Draws the curves of every group, and baselines in the panel's unit."""
  heights: list[np.ndarray] = []
  for group, style in zip(groups, styles, strict=True):
    for split in panel.splits:
      x, bounds = group.curve(split, panel.metric, panel.against)
      low, y, high = bounds
      if len(x) and len(group.runs) > 1:
        _draw_band(axes, x, low, high, style.color)
      if len(x) and split == "validation":
        axes.plot(
          *thin(x, y),
          "o",
          linestyle=style.line,
          color=style.color,
          markersize=3.5,
          zorder=4,
          linewidth=_LINE_WIDTH,
        )
      elif len(x):
        _draw_training(axes, x, y, style, panel)
      heights.append(y)
  baselines = _draw_baselines(axes, panel, groups)
  if panel.metric in dict(LOSS):
    low, high = limits(heights, baselines)
    if low > 0:  # A log scale, since a loss falls by little late in a run.
      axes.set_yscale("log")
      if high < _DECADE * low:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
      axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
      axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
  dress(axes, panel.title)
  axes.set_xlabel("step" if panel.against == "step" else "tokens")
  axes.set_ylabel(panel.unit)
  steps = MaxNLocator("auto", steps=(1, 2, 2.5, 5, 10), integer=True)
  axes.xaxis.set_major_locator(steps)
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  if panel.metric == "tokens_per_second":
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)
  axes.set_xlim(left=0)


def _draw_training(
  axes: Axes, x: np.ndarray, y: np.ndarray, style: Style, panel: Panel
) -> None:
  """Draws a training curve; a long noisy curve also gets its running mean."""
  if panel.noisy and len(y) >= 80:
    axes.plot(*thin(x, y), color=style.color, alpha=0.25, linewidth=0.8)
    x, y = means(x), means(y)
    window = len(y) // 40
    # "valid" keeps only the means of full windows.
    x, y = (
      np.convolve(values, np.ones(window) / window, "valid")
      for values in (x, y)
    )
  alone = "validation" not in panel.splits
  axes.plot(
    *thin(x, y),
    color=style.color,
    linestyle=style.line,
    marker="o" if len(y) == 1 else "",  # A line through one point is none.
    markersize=3.5,
    alpha=1 if alone else 0.45,
    linewidth=_LINE_WIDTH if alone else 1,
  )


def _draw_band(
  axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: Any
) -> None:
  """Fills the range between the least and the most of several runs."""
  if len(x) > POINTS:
    x = pieces(x).mean(axis=1)
    low, high = pieces(low).min(axis=1), pieces(high).max(axis=1)
  axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def _draw_baselines(
  axes: Axes, panel: Panel, groups: Sequence[Group]
) -> list[float]:
  """Draws a labelled line per distinct baseline: returns, or bits per byte.

  A run without "bits_per_byte" has one token per byte.
  """
  lines = {
    (name, value)
    for group in groups
    for run in group.runs
    if panel.metric in (BITS_PER_BYTE, RETURN)
    or (panel.metric == BITS and not run.has(BITS_PER_BYTE))
    for name, value in run.baselines.items()
  }
  for name, value in sorted(lines):
    axes.axhline(value, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
      f"{plain(name)} {value:.2f}",
      (1, value),
      xycoords=("axes fraction", "data"),
      # Beside the axes, where it hides no curve.
      xytext=(4, 0),
      textcoords="offset points",
      ha="left",
      va="center",
      fontsize=9,
      color=_GREY,
    )
  return [value for _, value in lines]


def _legend(
  figure: Figure,
  groups: Sequence[Group],
  styles: Sequence[Style],
  panels: Sequence[Panel],
) -> None:
  """Draws one legend for all panels: groups by colour, splits by line."""
  entries = [
    Line2D(
      [],
      [],
      color=style.color,
      linestyle=style.line,
      label=plain(_title(group)),
      linewidth=_LINE_WIDTH,
    )
    for group, style in zip(groups, styles, strict=True)
  ]
  if any(len(panel.splits) > 1 for panel in panels):
    entries += [
      Line2D([], [], color=_GREY, alpha=0.6, linewidth=1, label="training"),
      Line2D(
        [], [], color=_GREY, marker="o", markersize=3.5, label="validation"
      ),
    ]
  figure.legend(
    handles=entries,
    loc="outside upper left",
    ncols=min(len(entries), 6),
    frameon=False,
  )


def _title(group: Group) -> str:
  if len(group.runs) == 1:
    return group.name
  return f"{group.name} (mean and range of {len(group.runs)} seeds)"


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    output: The picture to write; None for report.png in the folder of a single
      run, or in the current one for several.
    table: The file for the final values in Markdown; "-" prints them.
    json: The file for the final values in JSON; "-" prints them.
  """

  output: str | None = None
  table: str | None = None
  json: str | None = None


def _run(argv: Sequence[str]) -> int:
  (options,), words = flags.parse(
    (Options(),),
    argv,
    usage="python -m train.report RUNDIR ... [--output FILE] [--table FILE]",
    about="Draws the curves of runs, and lists their final values.",
  )
  if not words:
    raise UserError("give the directory of a run: train.report RUNDIR ...")
  workdirs = [paths.local("RUNDIR", word) for word in words]
  folder = workdirs[0] if len(workdirs) == 1 else "."
  workdirs = [run for workdir in workdirs for run in runs_in(workdir)]
  output = options.output
  if output is None:
    output = pathlib.Path(folder, "report.png")
  # Checked before the picture is drawn.
  for flag, path in (("--table", options.table), ("--json", options.json)):
    if path not in (None, "-"):
      paths.check_output(flag, path)
  write_report(workdirs, output)
  log(f"wrote {output}")
  _write_values(workdirs, options)
  return 0


def _write_values(workdirs: Sequence[str], options: Options) -> None:
  """Writes or prints the final values, where they are asked for."""
  if options.table is None and options.json is None:
    return
  rows = final_values(workdirs)
  content = {
    "--table": (options.table, markdown(rows)),
    "--json": (options.json, json.dumps(rows, indent=2) + "\n"),
  }
  for flag, (path, text) in content.items():
    if path == "-":
      emit(text.rstrip("\n"))
    elif path is not None:
      path = paths.local(flag, path)
      paths.write(flag, path, text.encode())
      log(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  return main_with_errors(_run, argv, needs_output=False)


if __name__ == "__main__":
  sys.exit(main())
