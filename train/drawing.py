"""Colours, line styles and limits of the report, and thinning of its curves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.summary import MOST_NAMED, Group

_COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#000000",
)
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
# Points per curve: more make a curve no clearer, and are slow to draw.
POINTS = 4000


class Style(NamedTuple):
  """How the curves of a group are drawn."""

  color: Any
  line: Any


def styles_of(groups: Sequence[Group]) -> list[Style]:
  """Chooses colours by the swept field, and lines by the other swept fields.

  Of several swept fields, the one with the most values has the colours. If it
  is a number with three values or more, the colours are ordered like them.
  """
  fields = list(groups[0].settings)
  if not 1 <= len(fields) <= MOST_NAMED:
    keys = list(range(len(groups)))
    rest: list[Any] = [()] * len(groups)
  else:
    rows = [[group.settings[x] for x in fields] for group in groups]
    counts = [len(set(map(repr, column))) for column in zip(*rows, strict=True)]
    main = counts.index(max(counts))
    keys = [row[main] for row in rows]
    rest = [repr(row[:main] + row[main + 1 :]) for row in rows]
  values = list(dict.fromkeys(keys))
  numeric = all(type(x) in (int, float) for x in values)
  colors: dict[Any, Any]
  if len(fields) <= MOST_NAMED and fields and numeric and len(values) > 2:
    scale = colormaps["viridis"]
    places = np.linspace(0, 0.88, len(values))
    colors = dict(zip(sorted(values), map(scale, places), strict=True))
  else:
    colors = {x: _COLORS[i % len(_COLORS)] for i, x in enumerate(values)}
  others = list(dict.fromkeys(rest))
  return [
    Style(colors[key], _LINES[others.index(other) % len(_LINES)])
    for key, other in zip(keys, rest, strict=True)
  ]


def plain(text: str) -> str:
  """Escapes a text, so that matplotlib does not read it as a formula."""
  return text.replace("$", r"\$")


def dress(axes: Axes, title: str) -> None:
  """Gives axes their title, a grid behind the curves, and no frame."""
  axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)


def picture_of(figure: Figure, kind: str) -> bytes:
  """Returns a figure as a file of some kind, such as "png"."""
  picture = io.BytesIO()
  with warnings.catch_warnings():
    # The font may lack letters of a name or a value.
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    figure.savefig(picture, dpi=150, format=kind)
  return picture.getvalue()


def limits(
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


def pieces(x: np.ndarray) -> np.ndarray:
  """Splits a long curve [n] into equal pieces [at most POINTS, m]."""
  size = -(-len(x) // POINTS)
  # Copies of the last point fill the last piece.
  return np.pad(x, (0, -len(x) % size), mode="edge").reshape(-1, size)


def means(x: np.ndarray) -> np.ndarray:
  """Returns the mean of each piece of a long curve; a short one unchanged."""
  return pieces(x).mean(axis=1) if len(x) else x


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Keeps the lowest and the highest point of each piece of a long curve."""
  if len(x) <= 2 * POINTS:
    return x, y
  parts = pieces(y)
  ends = np.stack([parts.argmin(axis=1), parts.argmax(axis=1)], axis=1)
  first = np.arange(len(parts))[:, None] * parts.shape[1]
  kept = np.unique(np.minimum(first + ends, len(y) - 1))
  return x[kept], y[kept]
