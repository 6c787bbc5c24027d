"""The list of cases that the default run leaves out."""

import pathlib
import re

from tests.conftest import slower

ROOT = pathlib.Path(__file__).parents[1]


def test_every_id_names_a_test_that_has_other_cases_too():
  ids = slower()
  assert ids
  for case in ids:
    path, name = re.fullmatch(r"(\S+\.py)::(\w+)\[.*\]", case).groups()
    assert f"def {name}(" in (ROOT / path).read_text(), case
