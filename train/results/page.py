"""The page of the table, as Markdown."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from train import files
from train.results.record import Record
from train.results.table import Claim, Column, Row, Table
from train.summary import markdown_row
from train.sweep.results import mean_and_range

__all__ = ["Verdict", "best", "judge", "markdown", "write"]

# The records by task and mixer.
Records = Mapping[tuple[str, str], Record]

_HEAD = """# {title}

{about}{done} of {all} cells are done, in {hours:.1f} hours of processor time.

A cell is {value}, with the lowest and the highest seed in
brackets. The best cell of each column is bold, and so is every cell within a
hundredth of it (for accuracies). Where a column has several learning rates, a
cell shows the best one. The command of a cell is

    python -m train CONFIG FLAGS --replicas SEEDS

with the flags of its row and the config of its column; `results.json` has each
command in full, with the value of each seed, at each learning rate.
"""
_CLAIMS = """
## Claims of papers

A claim is an inequality between cells of the table. It holds if the cells
satisfy it.

"""
_CONFIGS = """
## Tasks

"""
_ROWS = """
## Flags of the rows

"""
# Accuracies that are as good as the best one.
_CLOSE = 0.01


def write(path: str, table: Table, records: Records) -> None:
  """Writes the page.

  Args:
    path: The file.
    table: Rows, columns and claims.
    records: The finished cells.
  """
  files.replace(path, markdown(table, records).encode())


def markdown(table: Table, records: Records) -> str:
  """Returns the page."""
  cells = [
    (column.name, row.name)
    for column in table.columns
    for row in table.rows
    if row.name not in column.without
  ]
  done = [records[key] for key in cells if key in records]
  minutes = sum(record["processor_minutes"] for record in done)
  text = _HEAD.format(
    title=table.title,
    about=f"{table.about.strip()}\n\n" if table.about else "",
    done=len(done),
    all=len(cells),
    hours=minutes / 60,
    value="the best seed"
    if all(column.best_seed for column in table.columns)
    else "the mean over the seeds",
  )
  parts = [text, "\n", _accuracies(table, records)]
  parts += [_costs(column, table, records) for column in table.columns]
  if table.claims:
    parts += [_CLAIMS, _claims(table, records)]
  parts += [_CONFIGS, _tasks(table, records), _ROWS, _flags(table)]
  return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  marks = ["---", *["---:"] * (len(head) - 1)]
  return "".join(map(markdown_row, [head, marks, *rows]))


def _accuracies(table: Table, records: Records) -> str:
  rows = []
  for row in table.rows:
    cells = [_cell(x, row, table, records) for x in table.columns]
    if any(cells):
      rows.append([row.name, *cells])
  rows.append(["*without learning*", *map(_chance_of(records), table.columns)])
  return _table(["mixer", *(x.name for x in table.columns)], rows)


def _cell(column: Column, row: Row, table: Table, records: Records) -> str:
  record = records.get((column.name, row.name))
  if record is None:
    return ""
  _, low, high = mean_and_range(record["seeds"])
  text = _number(column.value(record["seeds"]))
  if _number(low) != _number(high):
    text = f"{text} ({_number(low)} to {_number(high)})"
  found = best(column, table, records)
  return f"**{text}**" if row.name in found else text


def _number(value: float) -> str:
  return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def best(column: Column, table: Table, records: Records) -> list[str]:
  """Returns the names of the rows with the best cells of a column."""
  means = _means(column, table, records)
  if not means:
    return []
  if column.lower_is_better:
    top = min(means.values())
    return [name for name, mean in means.items() if mean == top]
  top = max(means.values())
  return [name for name, mean in means.items() if mean >= top - _CLOSE]


def _means(column: Column, table: Table, records: Records) -> dict[str, float]:
  return {
    row.name: column.value(records[column.name, row.name]["seeds"])
    for row in table.rows
    if (column.name, row.name) in records
  }


def _chance_of(records: Records):
  def chance(column: Column) -> str:
    values = (
      record["chance"]
      for (task, _), record in records.items()
      if task == column.name and record["chance"] is not None
    )
    found = next(values, column.chance)
    return "" if found is None else _number(found)

  return chance


def _costs(column: Column, table: Table, records: Records) -> str:
  """Sizes and speeds on one task."""
  if not column.shows_costs:
    return ""
  rows = []
  for row in table.rows:
    record = records.get((column.name, row.name))
    if record is None:
      continue
    rows.append(
      [
        row.name,
        _number(column.value(record["seeds"])),
        f"{record['parameters']:,}",
        f"{record['state_bytes']:,}" if "state_bytes" in record else "",
        f"{record['tokens_per_second']:,.0f}",
        f"{record['compile_seconds']:.1f}",
      ]
    )
  head = [
    "mixer",
    column.metric.replace("_", " "),
    "parameters",
    "bytes of state per sequence",
    "tokens per second",
    "seconds to compile",
  ]
  about = (
    f"\n## Cost on {column.name}\n\nSpeed and compilation depend on what else"
    " the machine did; the parameters and the state do not.\n\n"
  )
  return about + _table(head, rows) if rows else ""


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the table says about a claim.

  Attributes:
    text: "holds", "does not hold" or "not run".
    numbers: The means that decide.
  """

  text: str
  numbers: str


def judge(claim: Claim, table: Table, records: Records) -> Verdict:
  """Compares a claim with the cells.

  Args:
    claim: The claim.
    table: The table that it belongs to.
    records: The finished cells.
  """
  column = next(x for x in table.columns if x.name == claim.column)
  means = _means(column, table, records)
  named = (*claim.rows, *claim.above)
  numbers = ", ".join(f"{x} {_number(means[x])}" for x in named if x in means)
  if any(name not in means for name in named):
    return Verdict("not run", numbers)
  sign = -1 if column.lower_is_better else 1
  lowest = min(sign * means[name] for name in claim.rows)
  highest = max((sign * means[name] for name in claim.above), default=None)
  holds = claim.bound is None or lowest >= sign * claim.bound
  if highest is not None:
    holds &= lowest - highest > claim.margin
    holds &= claim.worst is None or highest <= sign * claim.worst
  return Verdict("holds" if holds else "does not hold", numbers)


def _claims(table: Table, records: Records) -> str:
  rows = []
  for claim in table.claims:
    verdict = judge(claim, table, records)
    fails = verdict.text == "does not hold"
    tried = f"; {claim.tried}" if fails and claim.tried else ""
    rows.append(
      [
        claim.text,
        claim.paper,
        claim.column,
        verdict.numbers,
        f"**{verdict.text}**{tried}",
      ]
    )
  return _table(["claim", "paper", "task", "cells", "verdict"], rows)


def _tasks(table: Table, records: Records) -> str:
  rows = []
  for column in table.columns:
    found = [r for (task, _), r in records.items() if task == column.name]
    minutes = [record["processor_minutes"] for record in found]
    typical = f"{sum(minutes) / len(minutes):.1f}" if minutes else ""
    rates = ", ".join(f"{rate:g}" for rate in column.rates) or "of the config"
    rows.append(
      [
        column.name,
        column.title,
        f"`{column.config}`",
        rates,
        column.chance_is,
        typical,
      ]
    )
  head = [
    "task",
    "number",
    "config",
    "learning rates",
    "without learning",
    "processor minutes per cell",
  ]
  return _table(head, rows)


def _flags(table: Table) -> str:
  rows = []
  for row in table.rows:
    own = shlex.join(row.words())
    others: dict[str, list[str]] = {}
    for column in table.columns:
      flags = shlex.join(row.words(column))
      if flags != own:
        others.setdefault(flags, []).append(column.name)
    texts = [f"`{flags}` on {', '.join(x)}" for flags, x in others.items()]
    rows.append([row.name, "; ".join([f"`{own}`", *texts])])
  return _table(["row", "flags"], rows)
