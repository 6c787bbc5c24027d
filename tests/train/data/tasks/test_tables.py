"""Tables: quantiles of numbers, and places of categories."""

import numpy as np
import pytest

from train.data.tasks import Table
from train.data.tasks.tables import TABLES, Columns, TableRows, read_table

RNG = np.random.default_rng(0)
ROWS = TableRows(
  numbers=np.stack([RNG.normal(size=50), np.repeat([3.0, 5.0], 25)], 1),
  categories=np.array([["red"], ["blue"]] * 25),
  targets=np.arange(50.0),
  names=("size", "kind", "colour"),
)


def test_numbers_are_quantiles_and_categories_places():
  columns = Columns.of(ROWS, bins=4)
  found = columns.encode(ROWS.numbers, ROWS.categories)
  x, knots = ROWS.numbers[:, 0], np.quantile(ROWS.numbers[:, 0], [0.25, 0.5])
  np.testing.assert_array_equal(found["numbers"][:, 0] < 0.25, x < knots[0])
  inside = np.flatnonzero((x > knots[0]) & (x < knots[1]))
  share = (x[inside] - knots[0]) / (knots[1] - knots[0])
  np.testing.assert_allclose(
    found["numbers"][inside, 0], (1 + share) / 4, rtol=1e-5
  )
  np.testing.assert_array_equal(
    found["categories"][:, 0], ROWS.categories[:, 0] == "red"
  )
  beyond = columns.encode(
    np.array([[-99.0, 3.0], [99.0, 5.0]]), np.array([["red"]] * 2)
  )
  np.testing.assert_array_equal(beyond["numbers"], [[0, 0], [1, 1]])


def test_missing_numbers_and_unknown_categories_are_named():
  columns = Columns.of(ROWS)
  missing = ROWS.numbers.copy()
  missing[7, 1] = np.nan
  with pytest.raises(ValueError, match="column 'kind': row 7 has no finite"):
    columns.encode(missing, ROWS.categories)
  unknown = ROWS.categories.copy()
  unknown[3] = "pink"
  match = "column 'colour': .* does not have the category 'pink', but blue, red"
  with pytest.raises(ValueError, match=match):
    columns.encode(ROWS.numbers, unknown)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_splits_have_each_row_once(name):
  pytest.importorskip("sklearn.datasets")
  table, whole = Table(name=name, seed=3), read_table(name)
  rows = table.rows()
  parts = [np.c_[rows[x].numbers, rows[x].targets] for x in rows]
  every = np.concatenate(parts)
  np.testing.assert_array_equal(
    every[np.lexsort(every.T)],
    (wanted := np.c_[whole.numbers, whole.targets])[np.lexsort(wanted.T)],
  )
  assert len(parts[1]) == round(0.25 * len(every))
  example = table.open("validation")[0]
  assert example["inputs"]["numbers"].shape == whole.numbers.shape[1:]
  if name == "diabetes":
    assert example["inputs"]["categories"].shape == (1,)
    train = table.open("train")
    targets = [train[i]["targets"] for i in range(len(train))]
    np.testing.assert_allclose(np.mean(targets), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(targets), 1, atol=1e-6)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="name must be one of breast_cancer, "):
    Table(name="wines").open("train")
  with pytest.raises(ValueError, match=r"held_out must be above 0 .*, got 0"):
    Table(held_out=0).open("train")
