"""Tables of scikit-learn: columns of numbers and of categories."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from train.data.dataset import check_at_least, check_split
from train.data.tasks.images import Images

__all__ = ["Columns", "Table", "TableRows", "read_table"]

# The columns of each table that hold categories, and whether it has classes.
TABLES: dict[str, tuple[tuple[int, ...], bool]] = {
  "breast_cancer": ((), True),
  "diabetes": ((1,), False),
  "digits": ((), True),
  "iris": ((), True),
  "wine": ((), True),
}


class TableRows(NamedTuple):
  """Rows of a table, as they are measured.

  Attributes:
    numbers: [n, N] in float64, the columns of numbers.
    categories: [n, M], the columns of categories.
    targets: [n], classes in int32 or numbers in float64.
    names: The names of the N columns, then those of the M columns.
  """

  numbers: np.ndarray
  categories: np.ndarray
  targets: np.ndarray
  names: tuple[str, ...]


def read_table(name: str) -> TableRows:
  """Reads a table.

  Args:
    name: "breast_cancer" (569 rows, 30 numbers, 2 classes), "diabetes" (442
      rows, 9 numbers and the sex; a number to predict), "digits" (1,797 rows,
      64 numbers, 10 classes), "iris" (150, 4, 3) or "wine" (178, 13, 3).

  Raises:
    ValueError: There is no table of this name, or scikit-learn is not
      installed.
  """
  if name not in TABLES:
    raise ValueError(
      f"name must be one of {', '.join(sorted(TABLES))}, got {name!r}"
    )
  try:
    from sklearn import datasets
  except ImportError as error:
    raise ValueError(
      "Table needs scikit-learn: python -m pip install scikit-learn"
    ) from error
  options = {"scaled": False} if name == "diabetes" else {}
  found: Any = getattr(datasets, f"load_{name}")(**options)
  chosen, classes = TABLES[name]
  numbers = [i for i in range(found.data.shape[1]) if i not in chosen]
  return TableRows(
    found.data[:, numbers].astype(np.float64),
    found.data[:, list(chosen)],
    found.target.astype(np.int32 if classes else np.float64),
    tuple(str(found.feature_names[i]) for i in [*numbers, *chosen]),
  )


@dataclasses.dataclass(frozen=True)
class Columns:
  """What a model must know of the columns: bins of numbers, and categories.

  Attributes:
    knots: Per column of numbers, its distinct quantiles, in rising order.
    known: Per column of categories, the categories in rising order.
    names: As in `TableRows`.
  """

  knots: tuple[np.ndarray, ...]
  known: tuple[np.ndarray, ...]
  names: tuple[str, ...]

  @classmethod
  def of(cls, rows: TableRows, bins: int = 16) -> Columns:
    """Reads the columns of the training split.

    Args:
      rows: The rows of the training split.
      bins: The number of bins between quantiles.

    Raises:
      ValueError: A number is missing.
    """
    check_at_least(1, bins=bins)
    _refuse_missing(rows.numbers, rows.names)
    shares = np.linspace(0, 1, bins + 1)
    return cls(
      tuple(np.unique(np.quantile(x, shares)) for x in rows.numbers.T),
      tuple(np.unique(x) for x in rows.categories.T),
      rows.names,
    )

  def encode(
    self, numbers: np.ndarray, categories: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Encodes rows for `jaxmodels.models.TabularModel`.

    Numbers become their quantile in the training split, by linear interpolation
    between the knots. So values beyond the training split are 0 or 1, and a
    column of one value is 0.

    Args:
      numbers: [n, N].
      categories: [n, M].

    Returns:
      "numbers" [n, N] in float32, from 0 to 1, and "categories" [n, M] in
      int32, the place of each category among the known ones; a kind of which
      the table has no column is left out.

    Raises:
      ValueError: A number is missing, or the training split does not have a
        category; names the column.
    """
    _refuse_missing(numbers, self.names)
    found = {}
    if self.knots:
      scaled = [
        np.interp(x, k, np.linspace(0, 1, len(k)) if len(k) > 1 else [0.0])
        for x, k in zip(numbers.T, self.knots, strict=True)
      ]
      found["numbers"] = np.stack(scaled, 1).astype(np.float32)
    if self.known:
      names = self.names[len(self.knots) :]
      places = [
        _places(x, known, name)
        for x, known, name in zip(categories.T, self.known, names, strict=True)
      ]
      found["categories"] = np.stack(places, 1)
    return found


def _refuse_missing(numbers: np.ndarray, names: Sequence[str]) -> None:
  missing = np.argwhere(~np.isfinite(numbers))
  if len(missing):
    row, column = missing[0]
    raise ValueError(
      f"column {names[column]!r}: row {row} has no finite number: fill it (with"
      " the mean of the training split, for example) or leave out the row"
    )


def _places(values: np.ndarray, known: np.ndarray, name: str) -> np.ndarray:
  place = np.clip(np.searchsorted(known, values), 0, len(known) - 1)
  unknown = values[known[place] != values]
  if len(unknown):
    raise ValueError(
      f"column {name!r}: the training split does not have the category"
      f" {unknown[0].item()!r}, but {', '.join(map(str, known))}: put it there,"
      " or give such values a category of their own in both splits"
    )
  return place.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Table:
  """Predict one column of a table from the others.

  An example has "inputs", the row as `Columns.encode` returns it, and
  "targets": a class, or a number [1] in deviations of the training split. It
  needs scikit-learn, which has the tables: the extra `tasks`.

  Attributes:
    name: One of `read_table`.
    held_out: The share of the rows for validation, above 0 and below 1.
    bins: The number of bins between quantiles, see `Columns`.
    seed: At least 0; determines the split.
  """

  name: str = "breast_cancer"
  held_out: float = 0.25
  bins: int = 16
  seed: int = 0

  def open(self, split: str) -> Images:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range, or scikit-learn is not installed.
    """
    check_split(split)
    rows = self.rows()
    train, own = rows["train"], rows[split]
    inputs = Columns.of(train, self.bins).encode(own.numbers, own.categories)
    targets = own.targets
    if targets.dtype.kind == "f":
      known = train.targets
      targets = ((targets - known.mean()) / known.std())[:, None]
      targets = targets.astype(np.float32)
    return Images(
      [
        {
          "inputs": {name: x[i] for name, x in inputs.items()},
          "targets": targets[i],
        }
        for i in range(len(targets))
      ]
    )

  def rows(self) -> dict[str, TableRows]:
    """The rows of both splits, as they are measured."""
    check_at_least(0, seed=self.seed)
    if not 0 < self.held_out < 1:
      raise ValueError(
        f"held_out must be above 0 and below 1, got {self.held_out}"
      )
    table = read_table(self.name)
    count = len(table.targets)
    order = np.random.default_rng(self.seed).permutation(count)
    cut = max(1, round(self.held_out * count))
    return {
      split: TableRows(
        table.numbers[chosen],
        table.categories[chosen],
        table.targets[chosen],
        table.names,
      )
      for split, chosen in {
        "train": order[cut:],
        "validation": order[:cut],
      }.items()
    }
