"""The plot of a sweep: a final metric against the values that were swept."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from train.drawing import dress, picture_of, plain
from train.files import paths
from train.sweep.cells import short_keys
from train.sweep.table import Row

# Values that differ by more than this factor get a log scale.
_WIDE = 4.0
_MARKERS = "osD^vP*X"


def write(found: Sequence[Row], metric: str, output: str) -> bool:
  """Draws the mean of a metric, with bars from the lowest to the highest seed.

  The horizontal axis is the field with the most values. Each combination of
  the other fields is one line.

  Args:
    found: The rows of the table.
    metric: The metric.
    output: The picture, with a suffix such as ".png".

  Returns:
    Whether there was anything to draw.

  Raises:
    UserError: The picture cannot be written.
  """
  drawn = [row for row in found if metric in row.metrics]
  if not drawn:
    return False
  short = short_keys([row.runs[0].cell for row in found])
  values = {key: {row.values.get(key, "") for row in found} for key in short}
  across = max(short, key=lambda key: len(values[key]), default=None)
  figure = Figure(figsize=(6.4, 4.2), layout="constrained")
  axes = figure.subplots()
  _draw(axes, drawn, metric, across, short)
  dress(axes, f"{metric} after {drawn[0].runs[0].config.steps:,} steps")
  axes.set_xlabel(plain(short[across]) if across else "")
  axes.set_ylabel(plain(metric))
  picture = picture_of(figure, "png")
  paths.write("--workdir", output, picture, follow=False)
  return True


def _draw(
  axes: Axes,
  drawn: Sequence[Row],
  metric: str,
  across: str | None,
  short: dict[str, str],
) -> None:
  """Draws one line per combination of all fields but the horizontal one."""
  lines: dict[str, list[Row]] = {}
  for row in drawn:
    label = ", ".join(
      f"{short[key]}={value}"
      for key, value in row.values.items()
      if key != across
    )
    lines.setdefault(label, []).append(row)
  places = _places(axes, drawn, across)
  colors = matplotlib.colormaps["viridis"]
  for i, (label, own) in enumerate(lines.items()):
    own = sorted(own, key=lambda row: places[_value(row, across)])
    means, lows, highs = zip(*(row.metrics[metric] for row in own), strict=True)
    below = [mean - low for mean, low in zip(means, lows, strict=True)]
    above = [high - mean for mean, high in zip(means, highs, strict=True)]
    axes.errorbar(
      [places[_value(row, across)] for row in own],
      means,
      yerr=(below, above),
      label=plain(label),
      color=colors(0.85 * i / max(len(lines) - 1, 1)),
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=4.5,
      linewidth=1.5,
      capsize=3,
    )
  if len(lines) > 1:
    axes.legend(frameon=False, fontsize=9)


def _value(row: Row, across: str | None) -> str:
  return row.values.get(across, "") if across else ""


def _places(
  axes: Axes, drawn: Sequence[Row], across: str | None
) -> dict[str, float]:
  """Where each value is on the horizontal axis; words are side by side."""
  texts = list(dict.fromkeys(_value(row, across) for row in drawn))
  try:
    places = {text: float(text) for text in texts}
  except ValueError:
    places = {text: float(i) for i, text in enumerate(texts)}
  else:
    low, high = min(places.values()), max(places.values())
    if low > 0 and high / low >= _WIDE:
      axes.set_xscale("log")
  axes.xaxis.set_major_locator(FixedLocator(sorted(places.values())))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xticklabels(
    [plain(text) for text in sorted(texts, key=lambda text: places[text])]
  )
  return places
