"""The command line: a config file, and `--config.KEY=VALUE` over it.

ml_collections does the overriding: the nested dataclasses become a typed,
locked `ConfigDict`, its flags change that, and new dataclasses are built from
the result. What it would report as a traceback is caught before, and ends in
one line that names the key and those like it.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_dict, config_flags

from train import serialize
from train.config import Config
from train.errors import UserError, one_line
from train.profile import parse_steps

_SCALARS = (bool, int, float, str)
_NONE = ("none", "None", "null")


@dataclasses.dataclass(frozen=True)
class Command:
  """What the command line asks for.

  Attributes:
    config: The run.
    workdir: Its directory.
    profile_steps: Numbers of the steps to trace.
  """

  config: Config
  workdir: str
  profile_steps: range = range(0)


def parse(argv: Sequence[str]) -> Command:
  """Reads `--config=FILE --config.KEY=VALUE ... --workdir=DIR`, and the rest.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The config with its overrides, and the directory of the run, which is
    `runs/NAME` for `configs/NAME.py` unless it is given; which steps to
    trace, by `--profile_steps=FIRST,LAST`.

  Raises:
    UserError: Something is unknown, missing, or of the wrong type.
  """
  path, rest = take("config", argv)
  if path is None:
    raise UserError(f"--config=FILE is missing; {_known_configs('configs')}")
  workdir, rest = take("workdir", rest)
  if workdir is None:
    name = os.path.splitext(os.path.basename(path))[0]
    workdir = os.path.join("runs", name)
  traced, rest = take("profile_steps", rest)
  config = override(load(path), rest)
  if traced is None:
    return Command(config, workdir)
  return Command(config, workdir, parse_steps(traced, config.steps))


def take(name: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
  """Takes the value of the last `--name` out of the arguments."""
  value, rest, words = None, [], iter(argv)
  for word in words:
    if word in (f"--{name}", f"-{name}"):
      value = next(words, None)
      if value is None:
        raise UserError(f"--{name} needs a value")
    elif word.startswith((f"--{name}=", f"-{name}=")):
      value = word.split("=", 1)[1]
    else:
      rest.append(word)
  return value, rest


def _known_configs(folder: str) -> str:
  names = sorted(
    os.path.join(folder, name)
    for name in (os.listdir(folder) if os.path.isdir(folder) else ())
    if name.endswith(".py") and not name.startswith("_")
  )
  if not names:
    return f"there are no configs in {folder}/"
  return "there are " + ", ".join(names)


def load(path: str) -> Config:
  """Imports a config file and calls its `get_config`.

  Args:
    path: The file. One below the current directory is imported by its dotted
      name, so that classes defined in it can be found again by a resumed run.

  Raises:
    UserError: No such file, or it has no `get_config` that returns a config.
  """
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or "configs"
    raise UserError(f"no config file {path}; {_known_configs(folder)}")
  module = _import_file(path)
  get_config = getattr(module, "get_config", None)
  if get_config is None:
    raise UserError(f"{path} has no function get_config()")
  try:
    config = get_config()
  except (TypeError, ValueError) as error:
    raise UserError(f"{path}: get_config() failed: {error}") from error
  if not isinstance(config, Config):
    kind = type(config).__name__
    raise UserError(f"{path}: get_config() must return a Config, not {kind}")
  return config


def _import_file(path: str) -> types.ModuleType:
  relative = os.path.relpath(path)
  dotted = os.path.splitext(relative)[0].replace(os.sep, ".")
  if all(part.isidentifier() for part in dotted.split(".")):
    if os.getcwd() not in sys.path:
      sys.path.insert(0, os.getcwd())
    return importlib.import_module(dotted)
  name = os.path.splitext(os.path.basename(path))[0]
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise UserError(f"{path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def override(config: Config, argv: Sequence[str]) -> Config:
  """Applies `--config.KEY=VALUE` arguments to a config.

  Args:
    config: The config.
    argv: The arguments, nothing but overrides.

  Raises:
    UserError: A key is unknown or a value is not of the key's type.
  """
  typed = _typed(config)
  for word in argv:
    _make_option(typed, _key(word), _mappings(config))
  known = _keys(typed)
  argv, nones = _split_nones(argv, _optional_keys(config))
  for word in argv:
    _check_key(word, known)
  values = absl_flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", typed, flag_values=values, sys_argv=["train", *argv]
    )
    rest = values(["train", *argv])
  except (absl_flags.Error, TypeError, ValueError) as error:
    raise UserError(_explain(one_line(error), known)) from error
  if len(rest) > 1:
    raise UserError(f"unknown argument {rest[1]!r}")
  changed: Any = values["config"].value
  for key in nones:
    *parents, last = key.split(".")
    holder: Any = changed
    for part in parents:
      holder = holder[part]
    holder[last] = None
  return typing.cast(Config, _rebuild(config, changed, "config"))


def _key(word: str) -> str | None:
  found = re.match(r"--?(?:no)?config\.([^=]*)", word)
  return found.group(1) if found else None


def _check_key(word: str, known: Mapping[str, type]) -> None:
  key = _key(word)
  if key is None:
    if word.startswith("-"):
      flag = word.split("=", 1)[0]
      flags = ("--config", "--workdir", "--distributed", "--profile_steps")
      options = [*flags, *(f"--config.{k}" for k in known)]
      raise UserError(f"unknown flag {flag}{_near(flag, options)}")
    return
  if key not in known:
    raise UserError(f"unknown key config.{key}{_near(key, known, 'config.')}")


def _near(key: str, known: Mapping[str, type] | list[str], prefix="") -> str:
  """Says which of the known keys the user may have meant."""
  matches = difflib.get_close_matches(key, known, n=3, cutoff=0.7)
  last = key.rsplit(".", 1)[-1]
  ends: dict[str, list[str]] = {}
  for option in known:
    ends.setdefault(option.rsplit(".", 1)[-1], []).append(option)
  for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.7):
    matches.extend(o for o in ends[end] if o not in matches)
  if not matches:
    parent = key.rpartition(".")[0]
    inside = [k for k in known if k.rpartition(".")[0] == parent]
    if not inside:
      inside = [k for k in known if "." not in k]
    return "; there are " + ", ".join(prefix + k for k in inside)
  return "; did you mean " + " or ".join(prefix + m for m in matches[:4]) + "?"


def _explain(message: str, known: Mapping[str, type]) -> str:
  """Says of a value that did not parse what its key wants."""
  found = re.match(r"flag --(config\.([^=]*)=[^:]*): ", message)
  wanted = known.get(found[2]) if found else None
  if found and wanted is ConfigDict:
    inside = [key for key in known if key.rpartition(".")[0] == found[2]]
    keys = ", ".join(f"config.{key}" for key in inside)
    return f"{found[1]} is wrong: it has keys of its own, {keys}"
  if found and wanted in (bool, int, float):
    return f"{found[1]} is wrong: the value must be {wanted.__name__}"
  return message


def _optional_keys(value: Any, prefix: str = "") -> set[str]:
  """Returns the keys that may be None by their annotation."""
  keys: set[str] = set()
  hints = _hints(type(value))
  for name, inner in serialize.config_fields(value).items():
    if type(None) in typing.get_args(hints.get(name)) or inner is None:
      keys.add(prefix + name)
    if serialize.is_config(inner):
      keys |= _optional_keys(inner, f"{prefix}{name}.")
  return keys


def _mappings(value: Any, prefix: str = "") -> set[str]:
  """Returns the keys that hold mappings of options."""
  keys: set[str] = set()
  for name, inner in serialize.config_fields(value).items():
    if isinstance(inner, Mapping):
      keys.add(prefix + name)
    if serialize.is_config(inner):
      keys |= _mappings(inner, f"{prefix}{name}.")
  return keys


def _make_option(
  typed: ConfigDict, key: str | None, mappings: set[str]
) -> None:
  """Makes room for an option that a mapping of options does not hold yet.

  Which options there are, only the module knows that takes them; it refuses
  unknown ones itself.
  """
  for mapping in mappings:
    if key is None or not key.startswith(mapping + "."):
      continue
    *parents, last = key.split(".")
    holder: Any = typed
    for part in parents:
      if part not in holder:
        holder[part] = ConfigDict()
      holder = holder[part]
      if not isinstance(holder, ConfigDict):
        return
    if last not in holder:
      holder[last] = config_dict.placeholder(object)


def _split_nones(
  argv: Sequence[str], optional: set[str]
) -> tuple[list[str], list[str]]:
  """Takes out the overrides that set an optional key to None."""
  rest: list[str] = []
  nones: dict[str, None] = {}
  for word in argv:
    key, text = _key(word), word.partition("=")[2]
    if key is None or key not in optional:
      rest.append(word)
      continue
    # The last word on a key counts.
    nones.pop(key, None)
    if text in _NONE:
      nones[key] = None
    else:
      rest.append(word)
  return rest, list(nones)


def _keys(typed: ConfigDict, prefix: str = "") -> dict[str, type]:
  """Returns the type of every key, inner ones too."""
  keys: dict[str, type] = {}
  for key in typed:
    keys[prefix + key] = typed.get_type(key)
    if isinstance(typed[key], ConfigDict):
      keys.update(_keys(typed[key], f"{prefix}{key}."))
  return keys


def _typed(value: Any) -> ConfigDict:
  """Turns a dataclass, and those inside it, into a ConfigDict."""
  fields = serialize.config_fields(value)
  hints = _hints(type(value))
  entries = {k: _entry(v, hints.get(k, Any)) for k, v in fields.items()}
  try:
    return ConfigDict({k: v for k, v in entries.items() if v is not _HIDDEN})
  except KeyError as error:
    name = type(value).__name__
    raise UserError(f"a field of {name} has a reserved name: {error}") from None


# Marks what no flag can reach: functions, modules in tuples, arrays.
_HIDDEN = object()


def _entry(value: Any, hint: Any) -> Any:
  if serialize.is_config(value):
    return _typed(value)
  name = serialize.dtype_name(value)
  if name is not None:
    return name
  if isinstance(value, Mapping):
    return ConfigDict(_plain(value))
  if value is None:
    return config_dict.placeholder(_optional(hint))
  if isinstance(value, list | tuple):
    plain = all(isinstance(v, _SCALARS) for v in value)
    return tuple(value) if plain else _HIDDEN
  if not isinstance(value, _SCALARS):
    return _HIDDEN
  # A whole number in a config file may stand for a real one.
  if isinstance(value, int) and _optional(hint) is float:
    return float(value)
  return value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
  """Copies a mapping of options, which Linen may have frozen."""
  return {
    key: _plain(v) if isinstance(v, Mapping) else _plain_leaf(v)
    for key, v in value.items()
  }


def _plain_leaf(value: Any) -> Any:
  return serialize.dtype_name(value) or value


def _hints(cls: type) -> dict[str, Any]:
  try:
    return typing.get_type_hints(cls)
  except (NameError, TypeError):
    # An annotation of names that exist for type checkers only.
    return {}


def _optional(hint: Any) -> type:
  """Returns the one type in `T`, `T | None` or `Optional[T]`, else object."""
  options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
  if len(options) == 1 and options[0] in (*_SCALARS, tuple):
    return options[0]
  return object


def _rebuild(old: Any, new: Any, key: str) -> Any:
  """Builds a value like `old` from an entry of a ConfigDict."""
  if serialize.is_config(old):
    fields = serialize.config_fields(old)
    changed = {
      name: _rebuild(value, new[name], f"{key}.{name}")
      for name, value in fields.items()
      if name in new
    }
    return _build(type(old), {**fields, **changed}, key)
  if isinstance(new, ConfigDict):
    return _mapping(old, new.to_dict())
  if serialize.dtype_name(old) is not None and isinstance(new, str):
    return _named(lambda: serialize.dtype_from_name(new), key)
  if old is None and isinstance(new, str) and key.endswith("dtype"):
    return _named(lambda: serialize.dtype_from_name(new), key)
  if isinstance(new, tuple) and isinstance(old, tuple):
    return _tuple(old, new, key)
  return new


def _mapping(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
  """Gives the dtypes inside a mapping of options back their own form."""
  old = old if isinstance(old, Mapping) else {}
  result: dict[str, Any] = {}
  for key, value in new.items():
    before = old.get(key)
    if isinstance(value, Mapping):
      result[key] = _mapping(before, value)
    elif serialize.dtype_name(before) is not None:
      result[key] = serialize.dtype_from_name(value)
    else:
      result[key] = value
  return result


def _tuple(old: tuple, new: tuple, key: str) -> tuple:
  if old and isinstance(old[0], str) and len(new) == 1 and "," in str(new[0]):
    new = tuple(part.strip() for part in str(new[0]).split(","))
  if old and any(not isinstance(v, type(old[0])) for v in new):
    kind = type(old[0]).__name__
    raise UserError(f"{key} is {new!r}, but must be a tuple of {kind}")
  return new


def _named(build: Callable[[], Any], key: str) -> Any:
  try:
    return build()
  except UserError as error:
    raise UserError(f"{key}: {error}") from error


def _build(cls: type, fields: dict[str, Any], key: str) -> Any:
  try:
    return cls(**fields)
  except (TypeError, ValueError) as error:
    raise UserError(f"{key}: {one_line(error)}") from error
