"""Results of `train.evaluate` as JSON and as text."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.positions import edges

# Metrics with a table of their own, by position.
_BY_POSITION = ("loss", "accuracy")


def as_json(
  name: str,
  split: str,
  length: int,
  found: Any,
  baselines: Mapping[str, float],
) -> dict[str, Any]:
  """Returns one evaluation as JSON; a number that is not finite is null.

  Args:
    name: The name of the data set.
    split: The split of the data set.
    length: L.
    found: A `train.evaluate.Measured`.
    baselines: Scores of simple methods on the whole split.

  Returns:
    "data", "split", "length"; "metrics" and "baselines", by name; "positions",
    the metrics as arrays `[L]`, null where nothing is predicted; and "buckets",
    the metrics of positions "from" up to "to" (not included), where a bucket
    without predictions has only "targets". "positions" and "buckets" are null
    if the loss is not one per token. "confusion" is the matrix of `ByClass`, or
    null.
  """
  buckets = found.buckets and [
    {"from": begin, "to": stop, **_where_predicted(values)}
    for (begin, stop), values in zip(
      itertools.pairwise(edges(length)), found.buckets, strict=True
    )
  ]
  positions = found.positions and {
    name: [
      _number(x) if count or name == "targets" else None
      for x, count in zip(
        values.tolist(), found.positions["targets"].tolist(), strict=True
      )
    ]
    for name, values in found.positions.items()
  }
  return {
    "data": name,
    "split": split,
    "length": length,
    "metrics": _finite(found.values),
    "baselines": dict(baselines),
    "positions": positions,
    "buckets": buckets,
    "confusion": None if found.confusion is None else found.confusion.tolist(),
  }


def _where_predicted(values: Mapping[str, float]) -> dict[str, float | None]:
  """Leaves out the metrics of a bucket in which nothing is predicted."""
  return _finite(values) if values["targets"] else {"targets": 0.0}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
  return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
  return value if math.isfinite(value) else None


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of metrics, and those by position and by class.

  Args:
    rows: What `as_json` returned for each evaluation.
  """
  # Baselines are in bits per byte, like the metric of that name.
  values = [row["metrics"] | row["baselines"] for row in rows]
  names = list(dict.fromkeys(name for value in values for name in value))
  found = [_table(rows, names, values)]
  known = [row for row in rows if row["buckets"]]
  bounds = edges(max((row["length"] for row in known), default=1))
  labels = {
    begin: str(begin) if stop == begin + 1 else f"{begin}-{stop - 1}"
    for begin, stop in itertools.pairwise(bounds)
  }
  for metric in _BY_POSITION:
    cells = [
      {labels[b["from"]]: b[metric] for b in row["buckets"] if metric in b}
      for row in known
    ]
    if any(cells):
      table = _table(known, list(labels.values()), cells)
      found.append(f"{metric} by position\n{table}")
  known = [row for row in rows if row["confusion"]]
  if known:
    cells = [_by_class(row["confusion"]) for row in known]
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    found.append(f"accuracy by class\n{_table(known, names, cells)}")
  return "\n".join(found)


def _by_class(confusion: Sequence[Sequence[float]]) -> dict[str, float]:
  """The share of each class that is predicted right, where there are any."""
  return {
    str(number): row[number] / sum(row)
    for number, row in enumerate(confusion)
    if sum(row)
  }


def _table(
  rows: Sequence[Mapping[str, Any]],
  names: Sequence[str],
  cells: Sequence[Mapping[str, float | None]],
) -> str:
  """Returns lines of columns: the data set, then the cells by name."""
  lines = [["data", "split", "length", *names]]
  for row, found in zip(rows, cells, strict=True):
    first = [row["data"], row["split"], str(row["length"])]
    lines.append([*first, *(_cell(found, name) for name in names)])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "".join(
    "  ".join(
      cell.ljust(width) if number < 2 else cell.rjust(width)
      for number, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    + "\n"
    for line in lines
  )


def _cell(found: Mapping[str, float | None], name: str) -> str:
  if name not in found:
    return ""
  value = found[name]
  return "not finite" if value is None else f"{value:.6g}"
