"""Ops and the files of their names can both be had."""

import importlib
import pkgutil
import sys

import pytest

from jaxmodels import ops

FILES = sorted(m.name for m in pkgutil.iter_modules(ops.__path__))
# The function `attention` hides a package of that name.
HIDDEN = [name for name in FILES if name in ops.__all__ and name != "families"]


@pytest.mark.parametrize("name", HIDDEN)
def test_an_import_of_a_file_finds_what_it_defines(name):
  found = {}
  exec(f"import jaxmodels.ops.{name} as found", found)
  found = found["found"]
  assert found is getattr(ops, name)
  file = sys.modules[f"jaxmodels.ops.{name}"]
  for each, value in vars(file).items():
    if not each.startswith("_"):
      assert getattr(found, each) is value, each


def test_some_files_are_hidden():
  assert {"attention", "delta_rule", "linear_attention"} <= set(HIDDEN)


def test_a_file_in_a_hidden_package_can_be_imported():
  import jaxmodels.ops.attention.tiles as tiles

  assert tiles is sys.modules["jaxmodels.ops.attention.tiles"]


def test_every_family_is_exported():
  modules = [importlib.import_module(f"jaxmodels.ops.{name}") for name in FILES]
  families = {id(m.FAMILY) for m in modules if hasattr(m, "FAMILY")}
  exported = {id(getattr(ops.families, name)) for name in ops.families.__all__}
  assert exported == families
  # By the name of the op.
  for name in ops.families.__all__:
    assert callable(getattr(ops, name.lower()))
