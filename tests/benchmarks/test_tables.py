"""README's tables are those that the records make."""

import ast

import pytest

from benchmarks import tables
from jaxmodels import mixers, ops
from jaxmodels.mixers.registry import make_module
from jaxmodels.testing.examples import MIXERS
from jaxmodels.testing.examples.example import TRANSITIONS


@pytest.mark.parametrize(
  "page", tables.PAGES, ids=lambda page: page.parent.name
)
def test_pages_have_the_tables_of_the_records(page):
  """`python -m benchmarks.tables` writes them."""
  text = page.read_text()
  assert tables.update(page, text) == text


def test_every_op_and_mixer_has_a_row():
  table = tables.ops_table()
  for name in ops.__all__:
    if name[0].islower() and callable(getattr(ops, name)):
      assert f"`{name}`" in table or name == "make_op"
  rows = tables.mixers_table().splitlines()[2:]
  assert len(rows) == len(mixers.MIXERS)


@pytest.mark.parametrize(
  "record", MIXERS.values(), ids=lambda record: record.name
)
def test_the_line_of_a_config_makes_the_default_mixer(record):
  entry = ast.literal_eval(tables.config_line(record))
  made = make_module("mixer", entry, {}, {"width": 256})
  assert made == mixers.MIXERS[record.mixer](width=256, parent=None)


def test_every_row_names_the_class_of_its_transition():
  for record in MIXERS.values():
    if record.listed:
      assert record.transition.split(":")[0] in TRANSITIONS


def test_a_missing_mark_is_named():
  with pytest.raises(ValueError, match="no marks <!-- ops -->"):
    tables.update(tables.README, "# jaxmodels")
