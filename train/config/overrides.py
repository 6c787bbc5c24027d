"""`--config.KEY=VALUE` over a config.

ml_collections does the overriding: the nested dataclasses become a typed,
locked `ConfigDict`, its flags change that, and new dataclasses are built from
the result (`train/config/typed.py`). What it would report as a traceback is
caught before, and ends in one line that names the key and those like it.
"""

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_dict, config_flags

from train.config import serialize, typed
from train.config.schema import Config
from train.errors import UserError, one_line

_NONE = ("none", "None", "null")


def override(config: Config, argv: Sequence[str]) -> Config:
  """Applies `--config.KEY=VALUE` arguments to a config.

  Args:
    config: The config.
    argv: The arguments, nothing but overrides.

  Raises:
    UserError: A key is unknown or a value is not of the key's type.
  """
  entries = typed.config_dict_of(config)
  for word in argv:
    _make_option(entries, _key(word), _mappings(config))
  known = typed.keys(entries)
  argv, nones = _split_nones(argv, _optional_keys(config))
  for word in argv:
    _check_key(word, known)
  values = absl_flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", entries, flag_values=values, sys_argv=["train", *argv]
    )
    rest = values(["train", *argv])
  # Values are literals of Python, on which its parser fails in many ways.
  except Exception as error:
    line = one_line(error)
    if not isinstance(error, absl_flags.Error | TypeError | ValueError):
      line = f"the overrides cannot be read: {type(error).__name__}: {line}"
    raise UserError(_explain(line, known)) from error
  if len(rest) > 1:
    raise UserError(f"unknown argument {rest[1]!r}")
  changed: Any = values["config"].value
  for key in nones:
    *parents, last = key.split(".")
    holder: Any = changed
    for part in parents:
      holder = holder[part]
    holder[last] = None
  return typing.cast(Config, typed.rebuild(config, changed, "config"))


def _key(word: str) -> str | None:
  found = re.match(r"--?(?:no)?config\.([^=]*)", word)
  return found.group(1) if found else None


def _check_key(word: str, known: Mapping[str, type]) -> None:
  key = _key(word)
  if key is None:
    if word.startswith("-"):
      flag = word.split("=", 1)[0]
      flags = ("--config", "--workdir", "--distributed", "--profile_steps")
      options = [*flags, "--new_data", *(f"--config.{k}" for k in known)]
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
    return (
      f"{one_line(found[1], 200)} is wrong: the value must be {wanted.__name__}"
    )
  return message


def _optional_keys(value: Any, prefix: str = "") -> set[str]:
  """Returns the keys that may be None by their annotation."""
  keys: set[str] = set()
  hints = typed.hints(type(value))
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
  entries: ConfigDict, key: str | None, mappings: set[str]
) -> None:
  """Makes room for an option that a mapping of options does not hold yet.

  Which options there are, only the module knows that takes them; it refuses
  unknown ones itself.
  """
  for mapping in mappings:
    if key is None or not key.startswith(mapping + "."):
      continue
    *parents, last = key.split(".")
    # What a ConfigDict has of its own, no entry can be called.
    own = [part for part in (*parents, last) if hasattr(ConfigDict, part)]
    if own or not re.fullmatch(r"[\w-]+(\.[\w-]+){1,9}", key):
      raise UserError(f"config.{key} cannot be the name of an option")
    holder: Any = entries
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
