"""What the table compares: mixers, tasks, and the claims of papers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from train.config import modules
from train.errors import UserError
from train.files import paths
from train.sweep.results import mean_and_range

__all__ = ["Claim", "Column", "Row", "Table", "read"]


@dataclasses.dataclass(frozen=True)
class Row:
  """A mixer, or a pattern of several.

  Attributes:
    name: Its name in the table.
    mixers: Its names in `--model.mixers`, separated by commas; by default the
      name.
    options: Fields of the first of these mixers, other than its defaults.

  Raises:
    ValueError: The name has a comma, at which `--mixers` would split it.
  """

  name: str
  mixers: str = ""
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    """Checks the name."""
    if "," in self.name:
      raise ValueError(f"the name of a row must have no comma: {self.name!r}")

  def words(self, column: Column | None = None) -> tuple[str, ...]:
    """Returns the flags of `python -m train`.

    Args:
      column: The task, which may have further options.
    """
    further: Mapping[str, Any] = {}
    width = None
    if column is not None:
      further = column.options_of.get(self.name, {})
      width = column.widths.get(self.name)
    return (
      f"--model.mixers={self.mixers or self.name}",
      *([] if width is None else [f"--model.width={width}"]),
      *(
        f"--model.mixers.0.{name.replace('_', '-')}={value}"
        for name, value in {**self.options, **further}.items()
      ),
    )


@dataclasses.dataclass(frozen=True)
class Column:
  """A task.

  Attributes:
    name: Its name in the table.
    config: The config file, which trains any mixer by `--model.mixers`.
    title: What its numbers are.
    metric: The metric of the validation; one of `best` of the config's loss.
    rates: Learning rates. All seeds are trained at each, and the table shows
      the rate with the best mean. () for that of the config.
    seeds: The number of seeds.
    seeds_of: The number of seeds of rows that have another, by name.
    chance: The value of `metric` without learning, or of a simple method.
    chance_is: What that method is.
    options_of: Further options of the mixers of rows, by the row's name.
    widths: The width of the model of rows, where that is not the config's; it
      makes models equal in size, see `python -m train.equal_width`.
    without: Names of rows that have no cell.
    lower_is_better: Whether less of the metric is better.
    best_seed: Whether the best seed of a cell counts, as for what a mixer can
      reach at all, in place of the mean over the seeds.
    shows_costs: Whether the page shows sizes and speeds on this task.
  """

  name: str
  config: str
  title: str
  metric: str = "accuracy"
  rates: tuple[float, ...] = ()
  seeds: int = 3
  seeds_of: Mapping[str, int] = dataclasses.field(default_factory=dict)
  chance: float | None = None
  chance_is: str = "chance"
  options_of: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )
  widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  without: tuple[str, ...] = ()
  lower_is_better: bool = False
  best_seed: bool = False
  shows_costs: bool = False

  def value(self, seeds: Sequence[float]) -> float:
    """Returns the number of a cell, from the metric of each seed."""
    if self.best_seed:
      return min(seeds) if self.lower_is_better else max(seeds)
    return mean_and_range(seeds)[0]


@dataclasses.dataclass(frozen=True)
class Claim:
  """What a paper says, as an inequality between cells of a column.

  It holds if all rows of `rows` are at least as good as `bound`, and better
  than all rows of `above` by `margin`.

  Attributes:
    text: The claim in words.
    paper: Authors, year and identifier.
    column: The name of the column.
    rows: The names of the rows that it praises.
    above: The names of the rows that are to be worse.
    bound: The worst mean that confirms it.
    worst: The best mean of the rows of `above` that confirms it.
    margin: The least difference of means between `rows` and `above`.
    tried: What else was tried; the page shows it if the claim does not hold.
  """

  text: str
  paper: str
  column: str
  rows: tuple[str, ...]
  above: tuple[str, ...] = ()
  bound: float | None = None
  worst: float | None = None
  margin: float = 0.0
  tried: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows, columns, and claims about their cells.

  Attributes:
    rows: The mixers.
    columns: The tasks.
    claims: The claims to check.
    title: The heading of the page.
    about: Its first lines, in Markdown.
    output: The folder of `results.json`, `RESULTS.md` and `results.png`, if
      `--output` does not name another one.
    over_state: Whether the picture has one line per mixer, over the bytes of
      its state, in place of one colour per cell.
  """

  rows: tuple[Row, ...]
  columns: tuple[Column, ...]
  claims: tuple[Claim, ...] = ()
  title: str = "Mixers on small tasks"
  about: str = ""
  output: str = "benchmarks"
  over_state: bool = False

  def check(self) -> None:
    """Raises a UserError that names what is given twice or unknown."""
    for kind in ("rows", "columns"):
      names = [entry.name for entry in getattr(self, kind)]
      for name in names:
        if names.count(name) > 1:
          raise UserError(f"two {kind} of the table are named {name!r}")
    for column in self.columns:
      named = (*column.seeds_of, *column.widths, *column.options_of)
      self._check_rows((*named, *column.without), f"column {column.name!r}")
    for claim in self.claims:
      place = f"the claim {claim.text!r}"
      self._check_rows((*claim.rows, *claim.above), place)
      columns = [column.name for column in self.columns]
      if claim.column not in columns:
        raise UserError(
          f"{place} names the column {claim.column!r}, but there are"
          f" {', '.join(columns)}"
        )

  def _check_rows(self, named: tuple[str, ...], place: str) -> None:
    known = {row.name for row in self.rows}
    for name in named:
      if name not in known:
        raise UserError(
          f"{place} names the row {name!r}, but there are"
          f" {', '.join(sorted(known))}"
        )


def read(path: str) -> Table:
  """Imports a file and calls its `get_table`.

  Args:
    path: A Python file.

  Raises:
    UserError: No such file, or it fails, or it has no `get_table` that returns
      a table.
  """
  path = paths.local("the table", path)
  if not os.path.isfile(path):
    raise UserError(f"no file {path} with a function get_table()")
  get_table = getattr(modules.import_file(path), "get_table", None)
  found = None if get_table is None else get_table()
  if not isinstance(found, Table):
    raise UserError(f"{path} has no function get_table() that returns a Table")
  found.check()
  return found
