"""Plots of the measurements: cost against length.

`python -m benchmarks.plots ONE.json TWO.json --output ops.png` draws what
several runs of `benchmarks.ops` wrote: the gradients of six ops. `--ops` names
others, and `--overview cost.png` compares ops with softmax attention.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.cases import CASES, Sizes
from benchmarks.contest import Result

# The ops to draw of a whole sweep: more panels do not fit on a page.
SIX = (
  "linear_attention",
  "linear_attention_key_decay",
  "delta_rule",
  "dplr_recurrence",
  "selective_scan",
  "diagonal_recurrence",
)
SOFTMAX = "attention"

# One colour per contender, the same in every panel.
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
# Ops of the overview with their colours, and that of softmax attention.
_OVERVIEW = (
  "delta_rule",
  "linear_attention",
  "selective_scan",
  "diagonal_recurrence",
)
_OVERVIEW_COLORS = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#000000"


def ops(
  results: Sequence[Result],
  output: str,
  names: Sequence[str] = (),
  directions: Sequence[str] = (),
) -> None:
  """Draws time per token against length, one panel per op and direction.

  Args:
    results: from `benchmarks.ops`; those left out are not drawn.
    output: the file to write; its suffix gives the format.
    names: the ops to draw, in this order; by default all.
    directions: "forward", "gradient" or both; by default all.
  """
  directions = directions or list(dict.fromkeys(r.direction for r in results))
  names = names or list(dict.fromkeys(r.op for r in results))
  shown = [(op, direction) for op in names for direction in directions]
  columns = min(3 if len(directions) == 1 else 2, len(shown))
  figure, panels = grid(math.ceil(len(shown) / columns), columns)
  for axes in panels[len(shown) :]:
    axes.set_axis_off()
  for axes, (op, direction) in zip(panels, shown, strict=False):
    here = [r for r in results if (r.op, r.direction) == (op, direction)]
    _contenders(axes, here)
    frame(axes, f"{op}, {direction}", "tokens per sequence", "µs per token")
  legend(figure, panels)
  save(figure, output)


def overview(results: Sequence[Result], output: str) -> None:
  """Draws the cost per token of several ops and of softmax attention.

  The left panel is measured: the gradient by "auto", in µs per token. The right
  panel is exact: the bytes of the state that an op returns after a sequence.

  Args:
    results: from `benchmarks.ops`, with the default sizes.
    output: the file to write; its suffix gives the format.
  """
  figure, (time, memory) = grid(1, 2, width=4.6)
  shown = [
    r
    for r in results
    if (r.name, r.direction) == ("auto", "gradient") and not r.skipped
  ]
  lengths = sorted({r.length for r in shown})
  for color, op in zip(_OVERVIEW_COLORS, (*_OVERVIEW, SOFTMAX), strict=True):
    own = [r for r in shown if r.op == op]
    style = {
      "color": color,
      "label": "softmax attention" if op == SOFTMAX else op,
      "markersize": 4,
      "linewidth": 2.2 if op == SOFTMAX else 1.6,
    }
    microseconds = [1e6 * r.per_token for r in own]
    time.plot([r.length for r in own], microseconds, "o-", **style)
    # Two ops have states of the same size: dashes show both lines.
    style |= {"linestyle": "--" if op == _OVERVIEW[1] else "-", "label": None}
    memory.plot(lengths, [_state_bytes(op, n) / 1024 for n in lengths], **style)
  frame(time, "Time of a gradient", "tokens per sequence", "µs per token")
  frame(memory, "State after a sequence", "tokens per sequence", "KiB")
  legend(figure, (time, memory))
  save(figure, output)


def _state_bytes(op: str, length: int) -> int:
  """Bytes of the state after one sequence, at the measured sizes."""
  sizes = Sizes(batch=1, length=length, heads=4, width=64)

  def state(inputs):
    return CASES[op].op(**inputs, method="auto")[1]

  leaves = jax.tree.leaves(jax.eval_shape(state, CASES[op].shapes(sizes)))
  return sum(x.size * x.dtype.itemsize for x in leaves)


def _contenders(axes: Axes, results: Sequence[Result]) -> None:
  done = [r for r in results if not r.skipped]
  for name in dict.fromkeys(r.name for r in done):
    own = [r for r in done if r.name == name]
    axes.plot(
      [r.length for r in own],
      [1e6 * r.per_token for r in own],
      "o--" if name == "auto" else "o-",
      color=_COLORS.get(name),
      label=name,
      markersize=3,
      linewidth=1.4,
    )


def interpolate(
  at: float, lengths: Sequence[int], values: Sequence[float]
) -> float:
  """Interpolates between measured values on logarithmic axes."""
  return float(np.exp(np.interp(np.log(at), np.log(lengths), np.log(values))))


def grid(
  rows: int, columns: int, width: float = 3.7
) -> tuple[Figure, Sequence[Axes]]:
  """A figure with panels, row by row."""
  figure = Figure(
    figsize=(width * columns, 2.9 * rows + 0.6), layout="constrained"
  )
  return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def frame(axes: Axes, title: str, x: str, y: str) -> None:
  """Makes the axes logarithmic, names them and rounds their ends."""
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{_short(x)}"))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{_short(y)}"))
  low, high = axes.dataLim.intervaly
  if 0 < low <= high < math.inf:  # No data if all contenders were left out.
    axes.yaxis.set_major_locator(LogLocator(subs=_ticks(low, high)))
    low, high = _round(low * 0.95, math.floor), _round(high * 1.05, math.ceil)
    axes.set_ylim(low, high)
  axes.yaxis.set_minor_formatter(NullFormatter())
  axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.spines[["top", "right"]].set_visible(False)


def _ticks(low: float, high: float) -> tuple[int, ...]:
  """Labels per power of ten: three if the axis shows few powers."""
  return (1, 2, 5) if high / low < 1000 else (1,)


def _round(value: float, toward: Callable[[float], int]) -> float:
  """The next of 1, 2, 5, 10, 20, ..., so that an axis ends at a label."""
  steps = (1, 2, 5)
  power = 10.0 ** math.floor(math.log10(value))
  places = [p * step for p in (power, 10 * power) for step in steps]
  if toward is math.floor:
    return max(x for x in places if x <= value)
  return min(x for x in places if x >= value)


def _short(value: float) -> str:
  """A short number: powers of two as 16k, powers of ten as 10,000."""
  if value >= 1024 and value % 1024 == 0:
    return f"{value / 1024:g}k"
  return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
  """Shows every label once, for all panels."""
  found = {}
  for axes in panels:
    found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
  figure.legend(
    found.values(),
    found.keys(),
    loc="outside upper left",
    ncols=min(len(found), 5),
    frameon=False,
    fontsize=9,
  )


def save(figure: Figure, output: str) -> None:
  """Writes the figure; makes its folder if necessary."""
  pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(output, dpi=180)


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command."""
  flags = argparse.ArgumentParser(prog="python -m benchmarks.plots")
  flags.add_argument("files", nargs="+", help="files of benchmarks.ops --json")
  flags.add_argument("--output", help="file for the plot of single ops")
  flags.add_argument(
    "--overview", help="file for the plot that compares several ops"
  )
  flags.add_argument(
    "--ops", nargs="+", help="by default six, or all that the files have"
  )
  flags.add_argument("--directions", nargs="+", default=["gradient"])
  options = flags.parse_args(arguments)
  written = (json.loads(pathlib.Path(x).read_text()) for x in options.files)
  results = [Result(**one) for content in written for one in content["results"]]
  if options.output:
    known = {r.op for r in results}
    names = options.ops or [op for op in SIX if op in known]
    ops(results, options.output, names, options.directions)
  if options.overview:
    overview(results, options.overview)


if __name__ == "__main__":
  main()
