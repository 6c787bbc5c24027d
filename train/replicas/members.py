"""The replicas of a command: their configs and the names of their folders."""

import dataclasses
from collections.abc import Sequence

from train.config import Config, Mesh
from train.errors import UserError, shown

MODES = ("auto", "turn", "vmap")
# The most replicas in one process: each has its own files and threads.
MOST = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Replica:
  """One of the runs.

  Attributes:
    name: Its folder in the workdir, such as "seed=0".
    config: Its config.
    rate: Its learning rate, if the replicas have several learning rates; else
      None.
  """

  name: str
  config: Config
  rate: float | None = None


def replicas_of(
  config: Config, count: int, rates: Sequence[float] = ()
) -> list[Replica]:
  """Returns the replicas of a config, in the order of their seeds.

  Args:
    config: The config.
    count: The number of seeds: `config.seed` and those that follow it.
    rates: Values of `config.optimizer.learning_rate`; each of them gets all
      seeds. Without any, the learning rate is that of the config.

  Raises:
    UserError: There are none or too many, or the rates cannot vary.
  """
  if not 1 <= count <= MOST // max(len(rates), 1):
    raise UserError(
      f"--replicas is {shown(count)} and --replica-rates has {len(rates)}"
      f" values, but together they must make 1 to {MOST} runs"
    )
  if len(set(rates)) < len(rates):
    raise UserError("--replica-rates has the same rate twice: remove one")
  if rates and not hasattr(config.optimizer, "learning_rate"):
    raise UserError(
      "--replica-rates needs an optimizer with a field learning_rate, but"
      f" config.optimizer is {type(config.optimizer).__name__}"
    )
  found = []
  for seed in range(config.seed, config.seed + count):
    seeded = dataclasses.replace(config, seed=seed)
    for rate in rates:
      optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
      own = dataclasses.replace(seeded, optimizer=optimizer)
      varied = rate if len(rates) > 1 else None
      found.append(Replica(f"learning_rate={rate!r},seed={seed}", own, varied))
    if not rates:
      found.append(Replica(f"seed={seed}", seeded))
  return found


def on_one_device(config: Config, mesh: Mesh) -> bool:
  """Whether the steps are plain programs of one device, which vmap needs."""
  # A teacher's variables would be constants of the program.
  has_teacher = getattr(config.loss, "teacher", None) is not None
  is_plain = config.strategy == "jit" and mesh == Mesh() and not config.debug
  return is_plain and not has_teacher


def refuse(
  replicas: Sequence[Replica], mode: str, mesh: Mesh, processes: int
) -> None:
  """Raises a UserError if replicas cannot share a process or use the mode."""
  config = replicas[0].config
  if mode not in MODES:
    raise UserError(
      f"--replica-mode is {shown(mode)}, but must be one of {', '.join(MODES)}"
    )
  # Orbax cannot write several checkpoints of several processes at a time.
  if processes > 1:
    raise UserError(
      f"--replicas needs one process, but there are {processes}: start each"
      " seed with a command of its own"
    )
  if "wandb" in config.trackers and len(replicas) > 1:
    raise UserError(
      "config.trackers has wandb, which follows one run per process: leave it"
      " out, or start each seed with a command of its own"
    )
  if on_one_device(config, mesh):
    return
  needs = (
    "one device, config.strategy=jit, config.debug=False and a loss without a"
    " teacher"
  )
  if mode == "vmap":
    raise UserError(
      f"--replica-mode=vmap needs {needs}: leave it out, and the replicas take"
      " turns"
    )
  if replicas[0].rate is not None:
    raise UserError(
      f"--replica-rates needs {needs}: leave it out, or start each rate with a"
      " command of its own"
    )
