"""The command line: a config file, and flags over its fields."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from train import flags
from train.config import modules
from train.config.schema import Config, check_types
from train.config.start import resolved
from train.errors import UserError
from train.files import paths
from train.profile import parse_steps

TRAIN = "python -m train configs/NAME.py --workdir DIR --FIELD VALUE ..."


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of a run that are not part of its config.

  Attributes:
    workdir: Directory of the run; None for runs/NAME of configs/NAME.py.
    profile_steps: FIRST,LAST: traces these steps, numbered as in
      `metrics.jsonl`, to `profile/` in the workdir.
    new_data: Whether a run may resume with other data than it began with.
    replicas: Trains this many seeds, `config.seed` and those that follow it,
      in one process; each is a run in a folder of the workdir, such as seed=0.
      None for one run in the workdir itself. See train/REPLICAS.md.
    replica_rates: Values of optimizer.learning_rate for the replicas, such as
      1e-3 3e-3; each rate gets all the seeds.
    replica_mode: How the steps of replicas are computed: "turn" (one after the
      other), "vmap" (all in one program), or "auto" (a measurement decides).
  """

  workdir: str | None = None
  profile_steps: str | None = None
  new_data: bool = False
  replicas: int | None = None
  replica_rates: tuple[float, ...] = ()
  replica_mode: str = "auto"


@dataclasses.dataclass(frozen=True)
class Command:
  """The parsed command line.

  Attributes:
    config: The run.
    workdir: Its directory.
    profile_steps: Numbers of the steps to trace.
    source: The config file, as `train.config.trust` names it.
    new_data: Whether a run may resume with other data than it began with.
    replicas: Seeds to train in one process; None for one run.
    replica_rates: Learning rates that each get all the seeds.
    replica_mode: How the steps of replicas are computed.
  """

  config: Config
  workdir: str
  profile_steps: range = range(0)
  source: str | None = None
  new_data: bool = False
  replicas: int | None = None
  replica_rates: tuple[float, ...] = ()
  replica_mode: str = "auto"


def parse(
  argv: Sequence[str], others: Sequence[Any] = (), about: str = ""
) -> Command:
  """Reads `configs/NAME.py --workdir DIR --FIELD VALUE ...`.

  Args:
    argv: The arguments, without the program's name.
    others: Dataclasses whose flags were read before; help lists them.
    about: What the command does, for help.

  Returns:
    The config with the values of the flags, and the options of the run.

  Raises:
    UserError: Something is unknown, missing, or of the wrong type.
  """
  config, (options, *_) = read(argv, (Options(), *others), TRAIN, about)
  config = resolved(config)
  path = argv[0]
  name = os.path.splitext(os.path.basename(path))[0]
  workdir, traced = options.workdir, options.profile_steps
  if workdir is None:
    workdir = os.path.join("runs", name)
  workdir = paths.local("--workdir", workdir)
  steps = range(0) if traced is None else parse_steps(traced, config.steps)
  inside = not os.path.relpath(path).startswith(os.pardir)
  source = os.path.relpath(path) if inside else os.path.abspath(path)
  same = ("new_data", "replicas", "replica_rates", "replica_mode")
  values = {name: getattr(options, name) for name in same}
  return Command(config, workdir, steps, source, **values)


def read(
  argv: Sequence[str],
  options: Sequence[Any],
  usage: str,
  about: str,
  kind: type = Config,
) -> tuple[Any, list[Any]]:
  """Reads a config file, which comes first, and flags over its fields.

  Args:
    argv: The arguments.
    options: Dataclasses with the other flags of the command.
    usage: How to call the command.
    about: What it does, for help.
    kind: The class of the config.

  Returns:
    The config, and the dataclasses, with the values of the flags.

  Raises:
    UserError: Something is unknown, missing, or of the wrong type.
  """
  if not argv or argv[0].startswith("-"):
    if "-h" in argv or "--help" in argv:
      about += (
        "\nWith a config file, --help lists the fields of the config too."
      )
      flags.parse(options, argv, usage=usage, about=about)
    raise UserError(
      f"the config file must come first: {usage}; {_known_configs('configs')}"
    )
  path, *rest = argv
  defaults = (load(path, kind), *options)
  (config, *values), stray = flags.parse(
    defaults, rest, usage=usage, about=about
  )
  flags.refuse(stray)
  return config, values


def override(config: Config, argv: Sequence[str]) -> Config:
  """Applies flags to a config.

  Args:
    config: The config.
    argv: The flags, of fields of the config only.

  Raises:
    UserError: A flag is unknown, or its value is wrong.
  """
  (changed,), stray = flags.parse((config,), argv, usage="", about="")
  flags.refuse(stray)
  return changed


def _known_configs(folder: str) -> str:
  names = sorted(
    os.path.join(folder, name)
    for name in (os.listdir(folder) if os.path.isdir(folder) else ())
    if name.endswith(".py") and not name.startswith("_")
  )
  if not names:
    return f"there are no configs in {folder}/"
  more = f" and {len(names) - 8} more" if len(names) > 8 else ""
  return f"there are {', '.join(names[:8])}{more}"


def load(path: str, kind: type = Config) -> Any:
  """Imports a config file and calls its `get_config`.

  Args:
    path: The file; see `train.config.modules.import_file`.
    kind: The class of the config.

  Raises:
    UserError: No such file, or it fails, or it has no `get_config` that
      returns a config.
  """
  path = paths.local("the config file", path)
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or "configs"
    raise UserError(f"no config file {path}; {_known_configs(folder)}")
  if not path.endswith(".py"):
    raise UserError(f"the config {path} is not a Python file, NAME.py")
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
  if not isinstance(config, kind):
    raise UserError(
      f"{path}: get_config() must return a {kind.__name__}, not"
      f" {type(config).__name__}"
    )
  if isinstance(config, Config):
    check_types(config)
  return config
