"""What `import jaxmodels` gives, and what a wheel of it holds."""

import fnmatch
import importlib
import pathlib
import subprocess
import sys
import tomllib

import pytest

import jaxmodels

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = [
  "analysis",
  "interop",
  "layers",
  "mixers",
  "models",
  "ops",
  "testing",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(program):
  """What a fresh Python prints."""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  return done.stdout.split()


def test_the_package_alone_imports_neither_jax_nor_flax():
  program = (
    "import sys, jaxmodels; print('jax' in sys.modules, 'flax' in sys.modules)"
  )
  assert run(program) == ["False", "False"]


def test_a_room_is_imported_when_it_is_used():
  program = (
    "import sys, jaxmodels\n"
    "print(jaxmodels.ops.delta_rule.__name__, 'flax' in sys.modules)\n"
    "print(jaxmodels.mixers.GLA.__name__, 'flax' in sys.modules)"
  )
  assert run(program) == ["delta_rule", "False", "GLA", "True"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_lists_what_it_exports(room):
  package = importlib.import_module(f"jaxmodels.{room}")
  assert getattr(jaxmodels, room) is package
  assert dir(package) == sorted(package.__all__)
  for name in package.__all__:
    assert hasattr(package, name)


def test_the_package_lists_its_rooms():
  assert dir(jaxmodels) == ["__version__", *ROOMS]
  with pytest.raises(AttributeError, match="no attribute 'op'"):
    jaxmodels.op  # noqa: B018


def test_the_version_has_one_source():
  assert "version" in PROJECT["project"]["dynamic"]
  dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
  assert dynamic == {"version": {"attr": "jaxmodels.__version__"}}
  citation = (ROOT / "CITATION.cff").read_text()
  assert f"version: {jaxmodels.__version__}\n" in citation


def test_a_wheel_holds_the_library_alone():
  include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
  packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
  ours = {"benchmarks", "configs", "jaxmodels", "tests", "train"}
  assert ours <= packages
  held = {p for p in packages if any(fnmatch.fnmatch(p, i) for i in include)}
  assert held == {"jaxmodels"}
  assert (ROOT / "jaxmodels" / "py.typed").exists()
