"""Trains a recurrent policy by proximal policy optimization.

python -m train.reinforcement configs/reinforcement/NAME.py --workdir runs/x

Every field of the config is a flag, such as `--model.mixers gla`. The same
command again resumes. Ctrl-C and SIGTERM save before the run ends.
`metrics.jsonl` in the workdir has the metrics: "train" lines of rollouts with
drawn actions, "validation" lines of the likeliest actions in new episodes, and
a "baseline" line with the returns of a random and of an optimal policy.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

from train.command import main_with_errors
from train.config import command_line
from train.files import paths
from train.metrics import FILE_NAME
from train.reinforcement.config import ReinforcementConfig
from train.reinforcement.run import run
from train.streams import log

_USAGE = (
  "python -m train.reinforcement configs/reinforcement/NAME.py --workdir DIR"
  " --FIELD VALUE ..."
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of a run that are not part of its config.

  Attributes:
    workdir: Directory of the run; None for runs/NAME of the config NAME.py.
  """

  workdir: str | None = None


def _run(argv: Sequence[str]) -> int:
  config, (options,) = command_line.read(
    argv, (Options(),), _USAGE, __doc__ or "", ReinforcementConfig
  )
  name = os.path.splitext(os.path.basename(argv[0]))[0]
  workdir = options.workdir or os.path.join("runs", name)
  workdir = paths.local("--workdir", workdir)
  outcome = run(config, workdir)
  if outcome.signal is not None:
    return 128 + outcome.signal
  environment = config.environment.hardest()
  log("\nmean return    random   policy  optimal")
  rows = zip(
    environment.chance(), outcome.returns, environment.optimum(), strict=True
  )
  for i, values in enumerate(rows, 1):
    text = "".join(f"{value:9.3f}" for value in values)
    log(f"  {'trial' if environment.pieces > 1 else 'piece'} {i:<5}{text}")
  log(f"\nnumbers in {os.path.join(workdir, FILE_NAME)}")
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run, needs_output=False))
