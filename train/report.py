"""Draws the curves of one or more runs: `python -m train.report RUNDIR...`.

The numbers come from `metrics.jsonl` of each run; panels without numbers are
left out.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import sys
import warnings
from array import array
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
from train.errors import UserError, one_line
from train.files import paths
from train.metrics import FILE_NAME, iterate_metrics
from train.streams import log

_COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#000000",
)
_GREY = "#666666"
_LINE_WIDTH = 1.8


@dataclasses.dataclass(frozen=True)
class _Panel:
  """One set of axes: a metric against steps or tokens."""

  title: str
  metric: str
  unit: str
  against: str = "step"
  splits: tuple[str, ...] = ("train", "validation")
  noisy: bool = False


_BITS = "bits_per_token"
_PANELS = (
  _Panel("Loss by step", _BITS, "bits per token"),
  _Panel("Loss by tokens seen", _BITS, "bits per token", against="tokens"),
  _Panel("Accuracy", "accuracy", "share of tokens"),
  _Panel("Learning rate", "learning_rate", "", splits=("train",)),
  _Panel("Gradient norm", "grad_norm", "", splits=("train",), noisy=True),
  _Panel(
    "Speed",
    "tokens_per_second",
    "tokens per second",
    splits=("train",),
    noisy=True,
  ),
)


# Metrics to read: those of the panels, and the counts of tokens.
_READ = {panel.metric for panel in _PANELS} | {"tokens", "tokens_seen"}
# Points per curve: more make a curve no clearer, and are slow to draw.
_POINTS = 4000


class _Run:
  """The metrics of one run, by split and name.

  Attributes:
    path: The run's directory.
    baselines: Scores of simple methods, in bits.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    self.path = pathlib.Path(workdir)
    self.baselines: dict[str, float] = {}
    # Steps and values of every curve.
    self._curves: dict[tuple[str, str], tuple[array, array]] = {}
    is_empty = True
    try:
      for line in iterate_metrics(self.path):
        is_empty = False
        self._add(line)
    except OSError as error:
      raise UserError(
        f"no run in {str(self.path)!r}: it has no readable {FILE_NAME}"
      ) from error
    if is_empty:
      raise UserError(
        f"nothing to draw for {str(self.path)!r}: its {FILE_NAME} is empty"
      )

  def _add(self, line: dict[str, Any]) -> None:
    """Adds the finite numbers of a line to the curves."""
    split, step = line.get("split", "train"), line["step"]
    if _BITS not in line and "loss" in line:
      line[_BITS] = line["loss"] / math.log(2)
    if split == "baseline":
      own = line.keys() - {"step", "split", _BITS}
      self.baselines |= {x: line[x] for x in own if math.isfinite(line[x])}
    for name in line.keys() & _READ:
      if math.isfinite(line[name]):
        key = split, name
        if key not in self._curves:
          self._curves[key] = array("d"), array("d")
        steps, values = self._curves[key]
        steps.append(step)
        values.append(line[name])

  def curve(
    self, split: str, metric: str, against: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y [n] of the finite points."""
    columns = self._curves.get((split, metric), (array("d"), array("d")))
    steps, values = map(np.array, columns)
    return (steps if against == "step" else self._tokens(steps)), values

  def _tokens(self, steps: np.ndarray) -> np.ndarray:
    """Returns tokens seen at some steps: "tokens_seen" or summed "tokens".

    Interpolates linearly, since only some steps are written.
    """
    known, seen = self.curve("train", "tokens_seen", "step")
    if not len(known):
      known, each = self.curve("train", "tokens", "step")
      seen = np.cumsum(each * np.diff(known, prepend=0))
    if not len(known):
      return np.full_like(steps, math.nan)
    return np.interp(steps, [0, *known], [0, *seen])


def write_report(
  workdirs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> None:
  """Draws the curves of runs as a picture, in one colour per run.

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
  runs = [_Run(workdir) for workdir in workdirs]
  panels = [panel for panel in _PANELS if any(_has(run, panel) for run in runs)]
  if not panels:
    raise UserError(
      f"nothing to draw for {', '.join(map(str, workdirs))}: the metrics have"
      f" none of {', '.join(sorted({panel.metric for panel in _PANELS}))}"
    )
  columns = min(2, len(panels))  # More are too narrow to read on a page.
  rows = -(-len(panels) // columns)
  figure = Figure(
    figsize=(4.6 * columns, 2.8 * rows + 0.6), layout="constrained"
  )
  grid = figure.subplots(rows, columns, squeeze=False).flat
  for axes, panel in zip(grid, panels, strict=False):
    _draw(axes, panel, runs)
  for axes in list(grid)[len(panels) :]:
    axes.remove()
  _legend(figure, runs, panels)
  picture = io.BytesIO()
  try:
    with warnings.catch_warnings():
      # The font may lack letters in the name of a run.
      warnings.filterwarnings("ignore", "Glyph .* missing from font")
      figure.savefig(picture, dpi=150, format=kind)
  # Some formats need other programs, such as LaTeX.
  except Exception as error:
    raise UserError(f"cannot draw {output}: {one_line(error)}") from error
  # Somebody else may have made the run, with a link under this name.
  own = pathlib.Path(output).parent in map(pathlib.Path, workdirs)
  paths.write("--output", output, picture.getvalue(), follow=not own)


def _has(run: _Run, panel: _Panel) -> bool:
  curves = (run.curve(s, panel.metric, panel.against) for s in panel.splits)
  return any(np.isfinite(x).any() for x, _ in curves)


def _draw(axes: Axes, panel: _Panel, runs: Sequence[_Run]) -> None:
  """Draws the curves of every run, and the baselines if the unit is bits."""
  heights: list[np.ndarray] = []
  for number, run in enumerate(runs):
    color = _COLORS[number % len(_COLORS)]
    for split in panel.splits:
      x, y = run.curve(split, panel.metric, panel.against)
      if len(x) and split == "validation":
        axes.plot(
          *_thin(x, y),
          "o-",
          color=color,
          markersize=3.5,
          zorder=4,
          linewidth=_LINE_WIDTH,
        )
      elif len(x):
        _draw_training(axes, x, y, color, panel)
      heights.append(y)
  if panel.metric == _BITS:
    low, high = _limits(heights, _draw_baselines(axes, runs))
    if low > 0:  # A log scale, since a loss falls by little late in a run.
      axes.set_yscale("log")
      axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
      axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
      axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)
  axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
  axes.set_xlabel("step" if panel.against == "step" else "tokens")
  axes.set_ylabel(panel.unit)
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  if panel.metric == "tokens_per_second":
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)
  axes.set_xlim(left=0)
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)


def _limits(
  curves: Sequence[np.ndarray], baselines: Sequence[float]
) -> tuple[float, float]:
  """Chooses the range of losses to show, for curves and baselines.

  Every curve starts inside the range. Later outliers, such as a spike of the
  loss, may leave it at the top.
  """
  every = np.concatenate(curves)
  starts = [float(curve[0]) for curve in curves if len(curve)]
  low = min([float(every.min()), *baselines])
  high = max([float(np.quantile(every, 0.95)), *starts, *baselines])
  if low > 0:
    margin = (high / low) ** 0.05 if high > low else 1.05
    return low / margin, high * margin
  margin = 0.1 * (high - low) or 0.1
  return low - margin, high + margin


def _draw_training(
  axes: Axes, x: np.ndarray, y: np.ndarray, color: str, panel: _Panel
) -> None:
  """Draws a training curve; a long noisy curve also gets its running mean."""
  if panel.noisy and len(y) >= 80:
    axes.plot(*_thin(x, y), color=color, alpha=0.25, linewidth=0.8)
    x, y = _means(x), _means(y)
    window = len(y) // 40
    # "valid" keeps only the means of full windows.
    x, y = (
      np.convolve(values, np.ones(window) / window, "valid")
      for values in (x, y)
    )
  alone = "validation" not in panel.splits
  axes.plot(
    *_thin(x, y),
    color=color,
    alpha=1 if alone else 0.45,
    linewidth=_LINE_WIDTH if alone else 1,
  )


def _pieces(x: np.ndarray) -> np.ndarray:
  """Splits a long curve [n] into equal pieces [at most _POINTS, m]."""
  size = -(-len(x) // _POINTS)
  # Copies of the last point fill the last piece.
  return np.pad(x, (0, -len(x) % size), mode="edge").reshape(-1, size)


def _means(x: np.ndarray) -> np.ndarray:
  """Returns the mean of each piece of a long curve; a short one unchanged."""
  return _pieces(x).mean(axis=1) if len(x) else x


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Keeps the lowest and the highest point of each piece of a long curve."""
  if len(x) <= 2 * _POINTS:
    return x, y
  pieces = _pieces(y)
  ends = np.stack([pieces.argmin(axis=1), pieces.argmax(axis=1)], axis=1)
  first = np.arange(len(pieces))[:, None] * pieces.shape[1]
  kept = np.unique(np.minimum(first + ends, len(y) - 1))
  return x[kept], y[kept]


def _draw_baselines(axes: Axes, runs: Sequence[_Run]) -> list[float]:
  """Draws one labelled line per distinct baseline of the runs."""
  lines = {
    (name, value) for run in runs for name, value in run.baselines.items()
  }
  for name, value in sorted(lines):
    axes.axhline(value, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
      f"{_plain(name)} {value:.2f}",
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


def _plain(name: str) -> str:
  """Escapes a name, so that matplotlib does not read it as a formula."""
  return name.replace("$", r"\$")


def _legend(
  figure: Figure, runs: Sequence[_Run], panels: Sequence[_Panel]
) -> None:
  """Draws one legend for all panels: runs by colour, splits by line."""
  names = [run.path.resolve().name for run in runs]
  if len(set(names)) < len(names):
    names = [str(run.path) for run in runs]
  names = list(map(_plain, names))
  entries = [
    Line2D(
      [],
      [],
      color=_COLORS[number % len(_COLORS)],
      label=name,
      linewidth=_LINE_WIDTH,
    )
    for number, name in enumerate(names)
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


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    output: The picture to write; None for report.png in the folder of a single
      run, or in the current one for several.
  """

  output: str | None = None


def _run(argv: Sequence[str]) -> int:
  (options,), words = flags.parse(
    (Options(),),
    argv,
    usage="python -m train.report RUNDIR ... [--output FILE]",
    about="Draws the curves of runs.",
  )
  if not words:
    raise UserError("give the directory of a run: train.report RUNDIR ...")
  workdirs = [paths.local("RUNDIR", word) for word in words]
  folder = workdirs[0] if len(workdirs) == 1 else "."
  output = options.output
  if output is None:
    output = pathlib.Path(folder, "report.png")
  write_report(workdirs, output)
  log(f"wrote {output}")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  return main_with_errors(_run, argv, needs_output=False)


if __name__ == "__main__":
  sys.exit(main())
