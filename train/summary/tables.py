"""Final values of runs, as rows and as Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from train.errors import one_line
from train.summary.groups import group_runs
from train.summary.runs import BITS, BITS_PER_BYTE, OF_TRAINING, RETURN, Run


def final_values(
  workdirs: Sequence[str | os.PathLike[str]],
) -> list[dict[str, Any]]:
  """Returns the final values of runs as JSON, one row per group.

  Args:
    workdirs: The runs' directories.

  Returns:
    Rows with "name", "settings" (the fields in which the groups differ), "runs"
    (their directories), "steps" (the last step of each), "baselines" (in bits
    per byte, or returns), and "metrics": by split and name the "mean", "min",
    "max" and "values" of the last finite values of the runs. The split "model"
    has "parameters", "state_bytes" and "compile_seconds", where they are known.

  Raises:
    UserError: See `Run`.
  """
  runs = [Run(workdir, ()) for workdir in workdirs]
  return [group.row() for group in group_runs(runs)]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns final values as a table in Markdown.

  Args:
    rows: What `final_values` returned. A cell of several runs is their mean,
      with the least and the most in brackets.
  """
  columns = list(
    {
      (split, name): None
      for split in ("validation", "train")
      for row in rows
      for name in row["metrics"].get(split, {})
    }
  )
  titles = [
    name if split == "validation" or name in OF_TRAINING else f"train {name}"
    for split, name in columns
  ]
  lines = [["run", "seeds", "step", *titles]]
  for row in rows:
    steps = sorted(set(row["steps"]))
    values = [row["metrics"].get(split, {}).get(x) for split, x in columns]
    cells = [row["name"], str(len(row["runs"])), " to ".join(map(str, steps))]
    if len(steps) > 2:
      cells[2] = f"{steps[0]} to {steps[-1]}"
    lines.append([*cells, *map(_cell, values)])
  names = [name for _, name in columns]
  units = (BITS_PER_BYTE, BITS, RETURN)
  unit = next((x for x in units if x in names), None)
  scores = {(k, v): None for row in rows for k, v in row["baselines"].items()}
  for name, value in sorted(scores) if unit else ():
    own = [f"{value:.4g}" if x == unit else "" for x in names]
    lines.append([name, "", "", *own])
  lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
  return "".join(map(markdown_row, lines))


def markdown_row(cells: Sequence[str]) -> str:
  """Returns a row of a table in Markdown, with its line break."""
  escaped = [one_line(cell, 500).replace("|", r"\|") for cell in cells]
  return f"| {' | '.join(escaped)} |\n"


def with_range(mean: float, low: float, high: float, count: int) -> str:
  """Returns the text of a mean, with the range if there are several runs."""
  text = f"{mean:.4g}"
  return text if count == 1 else f"{text} ({low:.4g} to {high:.4g})"


def _cell(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return ""
  three = value["mean"], value["min"], value["max"]
  return with_range(*three, len(value["values"]))
