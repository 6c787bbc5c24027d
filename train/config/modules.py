"""Imports the Python files and modules that a user names on a command line."""

import importlib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder

from train.errors import UserError, one_line


def import_file(path: str) -> types.ModuleType:
  """Imports a Python file by its path, whatever else has its name.

  Args:
    path: The file. One below the current directory is imported under its
      dotted name, another under the name of the file. Where a module of that
      name is there already, such as `json`, "config_file_" is put before it.
      The folder of the file is added to the end of `sys.path`, so that it can
      import its neighbours and they do not hide other modules.

  Returns:
    The module, which is in `sys.modules`, so that classes defined in it can be
    found again by their names.

  Raises:
    UserError: It is no Python file, or it fails; names the line.
  """
  path = os.path.abspath(path)
  name, inside = _name(path)
  if _is_taken(name, path):
    name = "config_file_" + name.replace(".", "_")
  found = sys.modules.get(name)
  if inside and found is not None and _is_from(found, path):
    return found
  for folder in (os.getcwd(), os.path.dirname(path)):
    if folder not in sys.path:
      sys.path.append(folder)
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise UserError(f"{path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    # The packages around it are imported first, as `import` would.
    if "." in name:
      importlib.import_module(name.rpartition(".")[0])
    spec.loader.exec_module(module)
  # SystemExit too: the file may call `sys.exit`.
  except (Exception, SystemExit) as error:
    sys.modules.pop(name, None)
    raise UserError(explain(path, error)) from error
  return module


def explain(path: str, error: BaseException) -> str:
  """Returns a line about an error in a file: where, of which type, and what."""
  line = getattr(error, "lineno", None)
  trace = error.__traceback__
  while trace is not None:
    if _same(trace.tb_frame.f_code.co_filename, path):
      line = trace.tb_lineno
    trace = trace.tb_next
  where = path if line is None else f"{path}, line {line}"
  return f"{where}: {type(error).__name__}: {one_line(error)}"


def _name(path: str) -> tuple[str, bool]:
  """Returns the name of a file as a module, and if it is a dotted path."""
  relative = os.path.splitext(os.path.relpath(path))[0]
  parts = relative.split(os.sep)
  if all(part.isidentifier() for part in parts):
    return ".".join(parts), True
  return re.sub(r"\W", "_", parts[-1]), False


def _is_taken(name: str, path: str) -> bool:
  """Says whether a name is that of another module, imported or not."""
  first = name.partition(".")[0]
  if first in sys.stdlib_module_names:
    return True
  if name in sys.modules:
    return not _is_from(sys.modules[name], path)
  if first in sys.modules:
    return not _holds(getattr(sys.modules[first], "__spec__", None), path)
  return not _holds(importlib.util.find_spec(first), path)


def _holds(spec: ModuleSpec | None, path: str) -> bool:
  """Says whether a module is a file, or a package around it; so is none."""
  if spec is None:
    return True
  folders = spec.submodule_search_locations
  if folders is None:
    return spec.origin is not None and _same(spec.origin, path)
  return any(
    path.startswith(os.path.join(os.path.abspath(folder), ""))
    for folder in folders
  )


def _is_from(module: types.ModuleType, path: str) -> bool:
  file = getattr(module, "__file__", None)
  return file is not None and _same(file, path)


def _same(one: str, other: str) -> bool:
  return os.path.realpath(one) == os.path.realpath(other)


def import_trusted(names: Iterable[str]) -> tuple[str, ...]:
  """Imports what the user trusts.

  Args:
    names: Dotted names of modules, or paths of Python files.

  Returns:
    The names of the modules.

  Raises:
    UserError: One is not there, or fails.
  """
  return tuple(_import_trusted(name) for name in names)


def _import_trusted(name: str) -> str:
  is_path = name.endswith(".py") or os.sep in name
  if is_path:
    if not os.path.isfile(name):
      raise UserError(f"--trust={name}: there is no such file")
    return import_file(name).__name__
  if not all(part.isidentifier() for part in name.split(".")):
    raise UserError(
      f"--trust={name}: give the dotted name of a module, such as"
      " my_package.mixers, or the path of a Python file"
    )
  _refuse_hidden(name)
  path = name.replace(".", os.sep) + ".py"
  if os.path.isfile(path):
    return import_file(path).__name__
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  try:
    importlib.import_module(name)
  except (Exception, SystemExit) as error:
    reason = f"{type(error).__name__}: {one_line(error)}"
    raise UserError(f"--trust={name}: {reason}") from error
  return name


def _refuse_hidden(name: str) -> None:
  """Raises a UserError if the current directory hides an installed module.

  Python looks there first, and the user may stand in a directory that somebody
  else has made.
  """
  here, first = os.getcwd(), name.partition(".")[0]
  others = [p for p in sys.path if not _same(p or here, here)]
  own = PathFinder.find_spec(first, [here])
  other = PathFinder.find_spec(first, others)
  if own is None or other is None or own.origin is None or first in sys.modules:
    return
  if other.origin is not None and not _same(own.origin, other.origin):
    raise UserError(
      f"--trust={name} can mean {own.origin} or {other.origin}: give the path"
      " of the file that you mean, or start the command in another directory"
    )
