"""Pictures of what was measured: time against length, both logarithmic.

`python -m benchmarks.plots ONE.json TWO.json --output ops.png` draws what
several runs of `benchmarks.ops` wrote: the gradients of six ops, or of those
that `--ops` names. With `--cost` it draws time and memory per token instead.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contest import Result

# One colour a contender, the same in every panel.
_COLORS = {
  "auto": "#000000",
  "recurrent": "#e69f00",
  "associative": "#cc79a7",
  "chunked": "#0072b2",
  "chunk_parallel": "#009e73",
  "quadratic": "#999933",
  "pallas": "#882255",
  "lax.scan": "#d55e00",
  "softmax": "#777777",
  "jax.nn softmax": "#bbbbbb",
}


# What a picture shows by default: as many as are legible in the width of a
# page.
_SHOWN = (
  "linear_attention",
  "delta_rule",
  "dplr_recurrence",
  "diagonal_recurrence",
  "selective_scan",
  "attention",
)

# A colour for each of them; softmax attention, the last, is black.
_LINES = ("#0072b2", "#d55e00", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def ops(
  results: Sequence[Result], output: str, shown: Sequence[str] = _SHOWN
) -> None:
  """Draws time against length, a panel for each op.

  Args:
    results: of `benchmarks.ops`; those that were left out are not drawn. The
      gradient is drawn where there is one.
    output: the file to write; its suffix gives the format.
    shown: the ops. If the results have none of them, all are drawn.
  """
  found = dict.fromkeys(r.op for r in results)
  names = [name for name in shown if name in found] or list(found)
  directions = {r.direction for r in results}
  direction = "gradient" if "gradient" in directions else "forward"
  columns = min(3, len(names))
  figure, panels = grid(math.ceil(len(names) / columns), columns)
  for axes in panels[len(names) :]:
    axes.set_axis_off()
  for axes, op in zip(panels, names, strict=False):
    here = [r for r in results if (r.op, r.direction) == (op, direction)]
    _contenders(axes, here)
    frame(axes, f"{op}, {direction}", "tokens per sequence", "seconds")
  legend(figure, panels)
  save(figure, output)


def _contenders(axes: Axes, results: Sequence[Result]) -> None:
  done = [r for r in results if not r.skipped]
  for name in dict.fromkeys(r.name for r in done):
    own = [r for r in done if r.name == name]
    axes.plot(
      [r.length for r in own],
      [r.median for r in own],
      "o--" if name == "auto" else "o-",
      color=_COLORS.get(name),
      label=name,
      markersize=3,
      linewidth=1.4,
    )
  if done:
    fastest = min(done, key=lambda r: (r.length, r.median))
    guide(axes, fastest.length, fastest.median, [r.length for r in done])


def cost(results: Sequence[Result], output: str) -> None:
  """Draws time and memory per token against length, of gradients.

  Ops run in the form that "auto" takes.

  Args:
    results: of `benchmarks.ops`.
    output: the file to write; its suffix gives the format.
  """
  figure, (time, memory) = grid(1, 2)
  for op, color in zip(_SHOWN, _LINES, strict=True):
    own = [
      r
      for r in results
      if (r.op, r.name, r.direction) == (op, "auto", "gradient")
      and not r.skipped
    ]
    style = {
      "color": color,
      "label": "softmax attention" if op == "attention" else op,
      "markersize": 4,
      "linewidth": 2.4 if op == "attention" else 1.6,
    }
    lengths = [r.length for r in own]
    time.plot(lengths, [1e6 * r.per_token for r in own], "o-", **style)
    per_token = [r.bytes / r.length / 1024 for r in own]
    memory.plot(lengths, per_token, "o-", **style)
  frame(
    time, "Time per token, with gradient", "tokens per sequence", "microseconds"
  )
  frame(memory, "Memory per token, with gradient", "tokens per sequence", "KiB")
  legend(figure, (time, memory))
  save(figure, output)


def guide(
  axes: Axes, length: float, value: float, lengths: Sequence[int]
) -> None:
  """A line of slope 1 below a point: time that grows like the length."""
  ends = np.array([min(lengths), max(lengths)], float)
  axes.plot(
    ends,
    0.6 * value * ends / length,
    ":",
    color="#444444",
    linewidth=1,
    label="slope 1",
  )


def interpolate(
  at: float, lengths: Sequence[int], values: Sequence[float]
) -> float:
  """A value between measured ones, both axes logarithmic."""
  return float(np.exp(np.interp(np.log(at), np.log(lengths), np.log(values))))


def grid(rows: int, columns: int) -> tuple[Figure, Sequence[Axes]]:
  """A figure with panels, row by row."""
  figure = Figure(
    figsize=(4.8 * columns, 3.2 * rows + 0.8), layout="constrained"
  )
  return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def frame(axes: Axes, title: str, x: str, y: str) -> None:
  """Names the axes and makes them logarithmic."""
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  axes.set_title(title, loc="left", fontsize=10)
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
  """Every label once, for all panels."""
  found = {}
  for axes in panels:
    found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
  figure.legend(
    found.values(),
    found.keys(),
    loc="outside upper left",
    ncols=6,
    frameon=False,
    fontsize=9,
  )


def save(figure: Figure, output: str) -> None:
  """Writes the figure, in a folder that is made if need be."""
  pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(output, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command."""
  flags = argparse.ArgumentParser(prog="python -m benchmarks.plots")
  flags.add_argument("files", nargs="+", help="of benchmarks.ops --json")
  flags.add_argument("--output", required=True, help="the picture")
  flags.add_argument("--ops", nargs="+", default=_SHOWN, help="which are shown")
  flags.add_argument("--cost", action="store_true", help="time and memory")
  options = flags.parse_args(arguments)
  written = (json.loads(pathlib.Path(x).read_text()) for x in options.files)
  results = [Result(**one) for content in written for one in content["results"]]
  if options.cost:
    cost(results, options.output)
  else:
    ops(results, options.output, options.ops)


if __name__ == "__main__":
  main()
