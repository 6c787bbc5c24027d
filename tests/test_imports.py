"""Imports go one way, between rooms and inside them, and never in a circle."""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# What each room may import of the project, beside itself.
ROOMS = {
  "jaxmodels.ops": (),
  "jaxmodels.layers": ("jaxmodels.ops",),
  "jaxmodels.mixers": ("jaxmodels.ops", "jaxmodels.layers"),
  "jaxmodels.models": (
    "jaxmodels.ops",
    "jaxmodels.layers",
    "jaxmodels.mixers",
    "jaxmodels.analysis",
  ),
  "jaxmodels.interop": (
    "jaxmodels.ops",
    "jaxmodels.layers",
    "jaxmodels.mixers",
    "jaxmodels.models",
  ),
  "jaxmodels.testing": (
    "jaxmodels.ops",
    "jaxmodels.layers",
    "jaxmodels.mixers",
  ),
  "jaxmodels.analysis": (),
  "train": ("jaxmodels", "train"),
  "configs": ("jaxmodels", "train"),
}
# Which files may import a library; all others reach it through them.
LIBRARIES = {
  "flax": (
    "jaxmodels/layers",
    "jaxmodels/mixers",
    "jaxmodels/models",
    "jaxmodels/interop",
    "jaxmodels/testing",
    "train",
  ),
  "orbax": ("train/checkpoint/arrays.py",),
  "tensorflow_datasets": ("train/data",),
  "safetensors": ("jaxmodels/interop/folder.py",),
}


def files_of(room):
  return sorted((ROOT / room.replace(".", "/")).rglob("*.py"))


def name_of(file):
  parts = file.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts).removesuffix(".__init__")


MODULES = {
  name_of(file): file
  for room in ("jaxmodels", "train", "configs")
  for file in files_of(room)
}


def imported(file):
  """Yields the modules that a file imports, in its functions too."""
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in MODULES else node.module


def within(module, packages):
  return any(module == p or module.startswith(f"{p}.") for p in packages)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room):
  ours = ("jaxmodels", "train", "configs", "tests", "benchmarks")
  wrong = [
    f"{name_of(file)} imports {module}"
    for file in files_of(room)
    for module in imported(file)
    if within(module, ours) and not within(module, (room, *ROOMS[room]))
  ]
  assert not wrong


def test_no_import_runs_in_a_circle():
  # A package imports what it exports, and its modules are inside it: so only
  # modules are looked at, and names that a package exports count for nothing.
  graph = {
    name: {
      module
      for module in imported(file)
      if module in MODULES and MODULES[module].name != "__init__.py"
    }
    for name, file in MODULES.items()
    if file.name != "__init__.py"
  }
  assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 100


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_in_its_rooms_only(library):
  wrong = [
    name_of(file)
    for file in MODULES.values()
    for module in imported(file)
    if within(module, (library,))
    and not within(
      str(file.relative_to(ROOT)).replace("/", "."),
      [place.replace("/", ".") for place in LIBRARIES[library]],
    )
  ]
  assert not wrong
