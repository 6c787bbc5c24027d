"""The command line: a config file, and `--config.KEY=VALUE` over it."""

import dataclasses
import os
from collections.abc import Sequence

from train.config import modules
from train.config.overrides import override
from train.config.schema import Config, check_types
from train.errors import UserError
from train.files import paths
from train.profile import parse_steps


@dataclasses.dataclass(frozen=True)
class Command:
  """The parsed command line.

  Attributes:
    config: The run.
    workdir: Its directory.
    profile_steps: Numbers of the steps to trace.
    source: The config file, as `train.config.trust` names it.
    new_data: Whether a run may resume with other data than it began with.
  """

  config: Config
  workdir: str
  profile_steps: range = range(0)
  source: str | None = None
  new_data: bool = False


def parse(argv: Sequence[str]) -> Command:
  """Reads `--config=FILE --config.KEY=VALUE ... --workdir=DIR`, and the rest.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The config with its overrides, and the directory of the run, which is
    `runs/NAME` for `configs/NAME.py` unless it is given; which steps to
    trace, by `--profile_steps=FIRST,LAST`; and whether the data may have
    changed, by `--new_data`.

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
  new_data = "--new_data" in rest
  config = override(load(path), [w for w in rest if w != "--new_data"])
  steps = range(0) if traced is None else parse_steps(traced, config.steps)
  inside = not os.path.relpath(path).startswith(os.pardir)
  source = os.path.relpath(path) if inside else os.path.abspath(path)
  return Command(config, workdir, steps, source, new_data)


def take(name: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
  """Takes the value of the last `--name` out of the arguments."""
  value, rest, words = None, [], iter(argv)
  for word in words:
    if word in (f"--{name}", f"-{name}"):
      value = next(words, None)
      # The next flag is no value; a value that starts with "--" needs "=".
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
    path: The file; see `train.config.modules.import_file`.

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
  module = modules.import_file(path)
  get_config = getattr(module, "get_config", None)
  if get_config is None:
    raise UserError(f"{path} has no function get_config()")
  try:
    config = get_config()
  # SystemExit too: the file may call `sys.exit`.
  except (Exception, SystemExit) as error:
    reason = modules.explain(path, error)
    raise UserError(f"get_config() failed: {reason}") from error
  if not isinstance(config, Config):
    raise UserError(
      f"{path}: get_config() must return a Config, not {type(config).__name__}"
    )
  check_types(config)
  return config
