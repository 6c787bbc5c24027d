"""What a saved config may name, and be made of.

A run directory may come from somebody else. So what its config names is never
imported or called for that reason alone. It may name

- classes of this project that hold settings and do nothing else: Linen modules
  of `jaxmodels` and of Flax, the dataclasses of a config in `train.config`
  (`schema`, `optimizers`, `schedules`, `groups`), and the data of
  `train.data`;
- classes of the same kinds in modules that the user trusts (`--trust`), or
  whose code the user's own program has imported before;
- functions, such as an activation, of `jax.nn`, `jax.numpy`, `flax.linen`,
  `jaxmodels.layers`, `jaxmodels.mixers`, `jaxmodels.ops`, and of such
  modules.
"""

import contextlib
import dataclasses
import importlib
import os
import sys
import sysconfig
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmodels.mixers.registry import UnknownNameError
from train.config.moved import current_name
from train.errors import UserError, one_line

# These read and write files.
_NO_ACTIVATIONS = ("load", "save", "savez", "fromfile")
_LIBRARIES = (jax.nn, jnp, nn)
# What a model raises that is not made of what its config says.
_MISFITS = (
  flax.errors.FlaxError,
  ArithmeticError,
  LookupError,
  NameError,
  TypeError,
  ValueError,
)
_CONFIGS = (
  "train.config.groups",
  "train.config.optimizer_base",
  "train.config.optimizers",
  "train.config.schedules",
  "train.config.schema",
  "train.losses",
)
_PURE = ("jaxmodels.layers", "jaxmodels.mixers", "jaxmodels.ops")


def _within(module: str, packages: Collection[str]) -> bool:
  """Says whether a module is one of some packages, or inside one."""
  return any(module == p or module.startswith(p + ".") for p in packages)


def _is_the_users(module: str) -> bool:
  """Says whether a module was imported, and is no library."""
  found = sys.modules.get(module)
  if module == "__main__":
    # A notebook or a script, or one of our own commands.
    spec = getattr(found, "__spec__", None)
    return spec is None or not _within(spec.name, ("train", "jaxmodels"))
  file = getattr(found, "__file__", None)
  if file is None or _within(module, ("train", "jaxmodels")):
    return False
  kept = ("stdlib", "platstdlib", "purelib", "platlib")
  folders = [sysconfig.get_path(name) for name in kept]
  folders = [os.path.join(os.path.realpath(folder), "") for folder in folders]
  path = os.path.realpath(file)
  packages = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
  return not path.startswith(tuple(folders)) and not any(
    name in path for name in packages
  )


class NotTrustedError(UserError):
  """A saved config names an object of a module that is not trusted."""


def path_of(value: Any) -> str:
  """Returns the name under which a class or a function is saved."""
  # A jitted function of JAX has no qualified name.
  name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
  return f"{value.__module__}:{name}"


def _trusted_module(
  what: str, module: str, packages: Collection[str], trusted: Collection[str]
) -> str:
  """Returns the module to look in for what a saved config names.

  Args:
    what: For the error, such as "class a.b:C".
    module: As it is named.
    packages: Of this project, which may be named.
    trusted: See `find_class`.

  Raises:
    NotTrustedError: It may not be named.
  """
  if _within(module, (*packages, *trusted)) or _is_the_users(module):
    return module
  if _within(module, ("train", "flax")):
    raise UserError(f"the saved config names the {what}, which is no config")
  for name in trusted:
    # A file has another name if it is imported from another directory.
    if name.rpartition(".")[2] == module.rpartition(".")[2]:
      return name
  raise NotTrustedError(
    f"the saved config names the {what}: if you trust the code of the module"
    f" {module}, add --trust={module}"
  )


def find_class(path: Any, trusted: Collection[str]) -> type:
  """Returns a class that a saved config names.

  Args:
    path: "module:Class", as it was read.
    trusted: Names of modules and packages that the user trusts.

  Raises:
    UserError: It may not be named, or is not there.
  """
  module, names = _split(path)
  own = ("jaxmodels", "flax.linen", "train.data", *_CONFIGS)
  module = _trusted_module(f"class {path!r}", module, own, trusted)
  found = _look_up(path, module, names)
  wanted = f"{module}:{'.'.join(names)}"
  if not isinstance(found, type) or path_of(found) != wanted:
    raise UserError(
      f"the saved config names {path!r}, which is not a class of that module"
    )
  if not _is_settings(found):
    raise UserError(
      f"the saved config names {path!r}, which is neither a dataclass of"
      " settings nor a Linen module"
    )
  return found


def _is_settings(cls: type) -> bool:
  if issubclass(cls, nn.Module):
    return True
  if _within(cls.__module__, ("train.data",)):
    return dataclasses.is_dataclass(cls) and hasattr(cls, "open")
  return dataclasses.is_dataclass(cls) and not _within(
    cls.__module__, ("flax",)
  )


def find_function(path: Any, trusted: Collection[str]) -> Any:
  """Returns a function that a saved config names; see `find_class`."""
  module, names = _split(path)
  for library in _LIBRARIES:
    found = vars(library).get(names[0])
    if (
      len(names) == 1
      and names[0] not in _NO_ACTIVATIONS
      and callable(found)
      and not isinstance(found, type)
      and path_of(found) == path
    ):
      return found
  # No config needs a function of the standard library, trusted or not.
  if module.partition(".")[0] in sys.stdlib_module_names:
    raise UserError(f"the saved config names {path!r}, which is no activation")
  module = _trusted_module(f"function {path!r}", module, _PURE, trusted)
  found = _look_up(path, module, names)
  wanted = f"{module}:{'.'.join(names)}"
  if isinstance(found, type) or path_of(found) != wanted or not callable(found):
    raise UserError(
      f"the saved config names {path!r}, which is not a function of that module"
    )
  return found


def _split(path: Any) -> tuple[str, list[str]]:
  module, _, names = path.partition(":") if isinstance(path, str) else ("",) * 3
  parts = [*module.split("."), *names.split(".")]
  if not all(part.isidentifier() for part in parts) or len(path) > 1000:
    raise UserError(
      f"the saved config names {str(path)[:200]!r}, which is not MODULE:NAME"
    )
  module, _, names = current_name(path).partition(":")
  return module, names.split(".")


def _look_up(path: str, module: str, names: list[str]) -> Any:
  """Returns what a module, or a class in it, itself defines."""
  try:
    found: Any = importlib.import_module(module)
    for name in names:
      if not isinstance(found, type | types.ModuleType):
        raise KeyError(name)
      found = vars(found)[name]
  except (ImportError, KeyError) as error:
    raise UserError(
      f"the saved config names {path!r}, which is not there: {one_line(error)}"
    ) from error
  return found


def build(cls: type, values: Mapping[str, Any]) -> Any:
  """Makes an instance of a class of `find_class`.

  Raises:
    UserError: It does not take these fields, or refuses them.
  """
  known = {field.name for field in dataclasses.fields(cls) if field.init}
  known -= {"parent", "name"} if issubclass(cls, nn.Module) else set()
  try:
    for name in values:
      if name not in known:
        raise TypeError(f"it has no field {name!r}")
    if _within(cls.__module__, ("train", "jaxmodels")):
      _check_types(cls, values)
    return cls(**values)
  except Exception as error:
    raise UserError(
      f"the saved config does not fit {path_of(cls)}: {one_line(error)[:300]}"
    ) from error


def _check_types(cls: type, values: Mapping[str, Any]) -> None:
  """Raises a TypeError for a value that is not what its field is declared."""
  try:
    hints = typing.get_type_hints(cls)
  except (NameError, TypeError):
    return
  for name, value in values.items():
    if not _fits(value, hints.get(name, Any)):
      raise TypeError(f"{name} is {str(value)[:80]!r}, of a wrong type")


def _fits(value: Any, hint: Any) -> bool:
  """Says whether a value read from JSON is of a type; if in doubt, it is."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, option) for option in inner)
  if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
    return type(value) is tuple and all(_fits(x, inner[0]) for x in value)
  if origin is typing.Literal:
    return value in inner
  if isinstance(origin, type) and issubclass(origin, Mapping):
    return isinstance(value, Mapping)
  if hint is float:
    return type(value) in (int, float)
  if hint in (bool, int, str, type(None)):
    return type(value) is hint
  if isinstance(hint, type) and (
    dataclasses.is_dataclass(hint) or issubclass(hint, nn.Module)
  ):
    return isinstance(value, hint)
  return True


def source_of(document: Any) -> str | None:
  """Returns the config file that a saved config was made from, if it says."""
  source = document.get("$source") if isinstance(document, dict) else None
  # It is printed, and may have been made to look like something else.
  if not isinstance(source, str) or not source.isprintable():
    return None
  return source if 0 < len(source) < 1000 else None


@contextlib.contextmanager
def explained(document: Any) -> Iterator[None]:
  """Turns what a saved config lacks, or does not fit, into one line.

  Args:
    document: The saved config.
  """
  try:
    yield
  except UnknownNameError as error:
    source = source_of(document)
    way = "import the module that defines it by --trust=MODULE"
    if source is not None:
      way = (
        f"the run was started with the config {source!r}: if you trust it,"
        f" add --trust={source}"
      )
    raise UserError(f"{one_line(error)[:300]}; {way}") from error
  except _MISFITS as error:
    raise UserError(
      f"the checkpoint does not fit its config: {one_line(error)[:300]}"
    ) from error
