"""The JSON file of finished cells, which outlives the runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from train import files
from train.errors import UserError, one_line
from train.files import untrusted
from train.metrics import iterate_metrics
from train.results.cells import Cell, best_rate, by_rate
from train.results.table import Claim
from train.sweep.results import Outcome

__all__ = ["key_of", "make", "read", "write"]

# A finished cell: see `make`.
Record = dict[str, Any]


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
  """Returns what tells the record of a cell from the others."""
  return record["task"], record["mixer"]


def make(cell: Cell, folder: str, outcome: Outcome) -> Record:
  """Returns the record of a finished cell.

  Args:
    cell: The cell.
    folder: Its folder.
    outcome: How its runs have ended.

  Returns:
    "task", "mixer", "metric", "seeds" (the metric of each seed at the best
    learning rate), "rate", "rates" (the metric of each seed by rate), "chance",
    "config", "command", "minutes" and "processor_minutes" (of all
    seeds and rates), "parameters", "state_bytes" (per sequence),
    "tokens_per_second" (of all runs together), "compile_seconds", and
    "fingerprint".
  """
  rates = by_rate(cell, folder)
  rate = best_rate(cell, rates)
  values = {
    key: [_round(one[cell.metric]) for one in found]
    for key, found in rates.items()
  }
  folders = [
    os.path.join(folder, name) for one in cell.folders.values() for name in one
  ]
  return {
    "task": cell.column.name,
    "mixer": cell.row.name,
    "metric": cell.metric,
    "seeds": values[rate],
    "rate": rate,
    "rates": {repr(k): v for k, v in values.items() if k is not None},
    "chance": _chance(cell),
    "config": cell.column.config,
    "command": cell.command,
    "minutes": round(outcome.spent.seconds / 60, 2),
    "processor_minutes": round(outcome.spent.processor_seconds / 60, 2),
    **_sizes(folders[0]),
    **_speed(folders),
    "fingerprint": cell.fingerprint,
  }


def _round(value: float) -> float:
  """Enough digits for a table, and few for the differences of the file."""
  return float(f"{value:.5g}")


def _chance(cell: Cell) -> float | None:
  """The given value, or that of the task."""
  own = getattr(cell.config.data, "chance", None)
  if cell.column.chance is not None or own is None:
    return cell.column.chance
  return _round(own())


def _sizes(folder: str) -> Record:
  """The parameters of the model, and the bytes of its state per sequence."""
  lines = (x for x in iterate_metrics(folder) if x["split"] == "model")
  sizes = next(lines, {})
  return {
    name: int(sizes[name])
    for name in ("parameters", "state_bytes")
    if name in sizes
  }


def _speed(folders: Iterable[str]) -> Record:
  """The longest compilation, and the speed of all runs together."""
  compilation, speed = 0.0, 0.0
  for folder in folders:
    lines = list(iterate_metrics(folder))
    # The others use the program of the first run.
    compiled = [x["compile_seconds"] for x in lines if "compile_seconds" in x]
    compilation = max([compilation, *compiled])
    # Runs take turns, and each has its share of the time.
    rates = [x["tokens_per_second"] for x in lines if "tokens_per_second" in x]
    speed += max(rates, default=0.0)
  return {
    "compile_seconds": _round(compilation),
    "tokens_per_second": _round(speed),
  }


def read(path: str) -> dict[tuple[str, str], Record]:
  """Returns the records of a file by task and mixer; {} if there is none.

  Raises:
    UserError: The file is damaged.
  """
  try:
    found = untrusted.read_json(path)
    return {key_of(record): record for record in found}
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"cannot read {path}: {one_line(error)}; restore it, or remove it to"
      " write it anew from the runs"
    ) from error


def write(
  path: str,
  records: Mapping[tuple[str, str], Record],
  claims: Iterable[Claim],
) -> None:
  """Writes records in the order of their keys, one line per entry.

  Args:
    path: The file.
    records: The records.
    claims: The entry "claim" of a record has those that praise its cell.
  """

  def claimed(record: Record) -> str | None:
    texts = [
      f"{claim.text} ({claim.paper})"
      for claim in claims
      if claim.column == record["task"] and record["mixer"] in claim.rows
    ]
    return "; ".join(texts) or None

  ordered = [records[key] for key in sorted(records)]
  found = [{**record, "claim": claimed(record)} for record in ordered]
  content = json.dumps(found, indent=1, allow_nan=False) + "\n"
  files.replace(path, content.encode())
