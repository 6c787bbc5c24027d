"""The command line: a config file, and `--config.KEY=VALUE` over it."""

import dataclasses
import importlib
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Sequence

from train import paths
from train.config import Config, check_types
from train.errors import UserError, one_line
from train.overrides import override
from train.profile import parse_steps


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
  workdir = paths.local("--workdir", workdir)
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
      # The next flag is no value; one that begins so can follow a "=".
      if value is None or value.startswith("--"):
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
    UserError: No such file, or it fails, or it has no `get_config` that
      returns a config.
  """
  path = paths.local("--config", path)
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or "configs"
    raise UserError(f"no config file {path}; {_known_configs(folder)}")
  if not path.endswith(".py"):
    raise UserError(f"--config={path} is not a Python file, NAME.py")
  try:
    module = _import_file(path)
  # SystemExit too: the file may call `sys.exit`.
  except (Exception, SystemExit) as error:
    raise UserError(_describe(path, error)) from error
  get_config = getattr(module, "get_config", None)
  if get_config is None:
    raise UserError(f"{path} has no function get_config()")
  try:
    config = get_config()
  except (Exception, SystemExit) as error:
    failed = f"get_config() failed: {_describe(path, error)}"
    raise UserError(failed) from error
  if not isinstance(config, Config):
    raise UserError(
      f"{path}: get_config() must return a Config, not {type(config).__name__}"
    )
  check_types(config)
  return config


def _describe(path: str, error: BaseException) -> str:
  """Says where in a config file an error arose, of which type, and what."""
  if isinstance(error, UserError):
    return one_line(error)
  line = getattr(error, "lineno", None)
  for frame in traceback.extract_tb(error.__traceback__):
    if os.path.realpath(frame.filename) == os.path.realpath(path):
      line = frame.lineno
  where = path if line is None else f"{path}, line {line}"
  return f"{where}: {type(error).__name__}: {one_line(error)}"


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
