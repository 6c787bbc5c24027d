"""README's tables are those that the records make."""

import pytest

from benchmarks import tables
from jaxmodels import mixers, ops


def test_readme_has_the_tables_of_the_records():
  """`python -m benchmarks.tables` writes them."""
  text = tables.README.read_text()
  assert tables.update(text) == text


def test_every_op_and_mixer_has_a_row():
  table = tables.ops_table()
  for name in ops.__all__:
    if name[0].islower() and callable(getattr(ops, name)):
      assert f"`{name}`" in table or name == "make_op"
  rows = tables.mixers_table().splitlines()[2:]
  assert len(rows) == len(mixers.MIXERS)


def test_a_missing_mark_is_named():
  with pytest.raises(ValueError, match="no marks <!-- ops -->"):
    tables.update("# jaxmodels")
