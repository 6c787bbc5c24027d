"""The cells of the table: one command each, and what its runs have reached."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from train.config import Config, command_line, serialize
from train.errors import UserError
from train.files import untrusted
from train.flags import kinds
from train.replicas import replicas_of
from train.results.table import Column, Row, Table
from train.sweep import results
from train.sweep.results import Outcome, Spent

# In the folder of a cell: how its processes have ended.
RECORD = "cell.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """A mixer on a task: several seeds, perhaps at several learning rates.

  Attributes:
    row: The mixer.
    column: The task.
    config: The config of the task, with the mixer of its file.
  """

  row: Row
  column: Column
  config: Config

  @property
  def name(self) -> str:
    """Its folder in the folder of all cells, which a changed config changes."""
    parts = (self.column.name, f"{self.row.name}-{self.fingerprint[:8]}")
    safe = (re.sub(r"[^\w.+-]+", "_", x, flags=re.ASCII) for x in parts)
    return os.path.join(*safe)

  @property
  def key(self) -> tuple[str, str]:
    """The names of its column and its row."""
    return self.column.name, self.row.name

  @property
  def seeds(self) -> int:
    """The number of seeds."""
    return self.column.seeds_of.get(self.row.name, self.column.seeds)

  @property
  def words(self) -> tuple[str, ...]:
    """The arguments of `python -m train`."""
    words = (self.column.config, *self.row.words(self.column))
    # Trying vmap would compile once more, and CPUs rarely gain from it.
    words = (*words, f"--replicas={self.seeds}", "--replica-mode=turn")
    if self.column.rates:
      words = (*words, "--replica-rates", *map(repr, self.column.rates))
    return words

  @property
  def command(self) -> str:
    """The command that trains its runs."""
    return f"python -m train {shlex.join(self.words)}"

  @property
  def metric(self) -> str:
    """The metric of the column."""
    return self.column.metric

  @property
  def steps(self) -> int:
    """Steps of all its runs."""
    return self.config.steps * self.seeds * max(len(self.column.rates), 1)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Changes with the config of the task, and with the flags of the mixer.

    New fields of the library with a default leave it as it is.
    """
    document = [_without_defaults(self.config), *self.words]
    content = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]

  @functools.cached_property
  def folders(self) -> dict[float | None, list[str]]:
    """The folders of its runs, one per seed, by learning rate."""
    found: dict[float | None, list[str]] = {}
    for replica in replicas_of(self.config, self.seeds, self.column.rates):
      rate = replica.config.optimizer.learning_rate
      key = rate if self.column.rates else None
      found.setdefault(key, []).append(replica.name)
    return found


def cells(table: Table) -> list[Cell]:
  """Returns the cells of a table, row by row.

  Raises:
    UserError: A config cannot be read.
  """
  configs = {column.name: _config(column) for column in table.columns}
  return [
    Cell(row, column, configs[column.name])
    for row in table.rows
    for column in table.columns
    if row.name not in column.without
  ]


def chosen_cells(
  every: Sequence[Cell], tasks: Sequence[str] = (), mixers: Sequence[str] = ()
) -> list[Cell]:
  """Returns some cells of a table.

  Args:
    every: The cells of the table.
    tasks: Names of columns; () for all.
    mixers: Names of rows; () for all.

  Raises:
    UserError: A name is unknown.
  """
  _check_known("--tasks", tasks, [cell.column.name for cell in every])
  _check_known("--mixers", mixers, [cell.row.name for cell in every])
  return [
    cell
    for cell in every
    if (not tasks or cell.column.name in tasks)
    and (not mixers or cell.row.name in mixers)
  ]


def _check_known(flag: str, names: Sequence[str], known: list[str]) -> None:
  for name in names:
    if name not in known:
      there = ", ".join(dict.fromkeys(known))
      raise UserError(f"{flag}={name}: there are {there}")


def _config(column: Column) -> Config:
  config = command_line.load(column.config)
  # The validation of text has it beside the metrics of the loss.
  best = {**config.loss.best, "bits_per_byte": "min"}
  if column.metric not in best:
    raise UserError(
      f"column {column.name!r} has metric={column.metric!r}, but"
      f" {column.config} has {', '.join(best)}"
    )
  wanted = "min" if column.lower_is_better else "max"
  if best[column.metric] != wanted:
    raise UserError(
      f"column {column.name!r} has lower_is_better={column.lower_is_better},"
      f" but {column.config} has the opposite for {column.metric}"
    )
  return config


def _without_defaults(value: Any) -> Any:
  """A config as JSON, without the fields that have their defaults."""
  if isinstance(value, Mapping):
    return {str(k): _without_defaults(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_defaults(entry) for entry in value]
  if not kinds.is_config(value):
    return serialize.to_json(value)
  defaults = {f.name: f.default for f in dataclasses.fields(value)}
  found = {
    name: _without_defaults(entry)
    for name, entry in kinds.config_fields(value).items()
    if type(entry) is not type(defaults[name]) or entry != defaults[name]
  }
  return {"$class": type(value).__name__, **found}


class Reader:
  """Reads the folders of cells, for `train.sweep.pool.Pool`."""

  def read(self, job: Cell, folder: str) -> Outcome:
    """Returns "done" if all runs of the cell are complete."""
    try:
      found = untrusted.read_json(os.path.join(folder, RECORD))
    except (OSError, ValueError):
      return Outcome()
    if not isinstance(found, dict):
      return Outcome()
    if found.get("fingerprint") != job.fingerprint or not found.get("done"):
      return Outcome()
    return _outcome(job, folder, results.spent_of(found))

  def record(self, job: Cell, folder: str, code: int, spent: Spent) -> Outcome:
    """Writes how a process of the cell has ended, and returns it."""
    # A rate at which a seed diverges makes exit code 1; others may be complete.
    outcome = _outcome(job, folder, spent) if code in (0, 1) else Outcome()
    if outcome.state != "done":
      reason = results.reason(folder, code)
      outcome = Outcome("failed", {}, spent, reason)
    results.write_record(
      os.path.join(folder, RECORD),
      {"fingerprint": job.fingerprint, "done": outcome.state == "done"},
      spent,
    )
    return outcome

  def last_step(self, folder: str) -> int:
    """The steps of all runs of the cell so far."""
    try:
      names = os.listdir(folder)
    except OSError:
      return 0
    return sum(results.last_step(os.path.join(folder, x)) for x in names)


def by_rate(
  cell: Cell, folder: str
) -> dict[float | None, list[dict[str, float]]]:
  """Returns the last metrics of each seed, by rate.

  A rate is left out if one of its seeds has diverged.

  Args:
    cell: The cell.
    folder: Its folder.
  """
  found = {
    rate: [
      results.last_validation(os.path.join(folder, name), cell.config.steps)
      for name in names
    ]
    for rate, names in cell.folders.items()
  }
  return {
    rate: metrics
    for rate, metrics in found.items()
    if all(cell.metric in one for one in metrics)
  }


def best_rate(
  cell: Cell, rates: Mapping[float | None, list[dict[str, float]]]
) -> float | None:
  """Returns the rate with the best value of the column."""
  choose = min if cell.column.lower_is_better else max
  return choose(rates, key=lambda rate: _value(cell, rates[rate]))


def _value(cell: Cell, seeds: Sequence[Mapping[str, float]]) -> float:
  return cell.column.value([metrics[cell.metric] for metrics in seeds])


def _outcome(cell: Cell, folder: str, spent: Spent) -> Outcome:
  rates = by_rate(cell, folder)
  if not rates:
    return Outcome("not run", {}, spent)
  value = _value(cell, rates[best_rate(cell, rates)])
  return Outcome("done", {cell.metric: value}, spent)
