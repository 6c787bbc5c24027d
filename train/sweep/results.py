"""What each run of a sweep has reached, read from its folder."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from train import files
from train.errors import UserError, one_line
from train.files import untrusted
from train.metrics import FILE_NAME, iterate_metrics
from train.sweep.cells import Run

# In the folder of a run: the record of the sweep, and all output of the run.
RECORD = "sweep.json"
OUTPUT = "output.txt"
# Counts of the validation split, which no model changes.
_COUNTS = ("step", "split", "tokens", "targets")
# Bytes at the end of a file that hold its last lines.
_TAIL = 1 << 14


@dataclasses.dataclass(frozen=True)
class Spent:
  """What the processes of a run have taken; a killed sweep counts nothing.

  Attributes:
    seconds: How long they ran.
    processor_seconds: The time of all their cores.
  """

  seconds: float = 0.0
  processor_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of one run.

  Attributes:
    state: "done", "failed" or "not run".
    metrics: The metrics of the last validation.
    spent: The time of its processes.
    reason: Why it failed.
  """

  state: str = "not run"
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  spent: Spent = Spent()
  reason: str = ""

  @property
  def seconds(self) -> float:
    """How long its processes ran."""
    return self.spent.seconds


def read(run: Run, folder: str) -> Outcome:
  """Returns "done" if the run is complete with the same config.

  Args:
    run: The run.
    folder: Its folder.
  """
  try:
    found = untrusted.read_json(os.path.join(folder, RECORD))
  except (OSError, ValueError):
    return Outcome()
  if not isinstance(found, dict) or found.get("config") != run.document:
    return Outcome()
  metrics = last_validation(folder, run.steps) if found.get("done") else {}
  return Outcome("done" if metrics else "not run", metrics, spent_of(found))


def spent_of(found: Mapping[str, Any]) -> Spent:
  """Returns the time in a record; 0 for what it does not have."""
  values = {
    field.name: found.get(field.name) for field in dataclasses.fields(Spent)
  }
  return Spent(
    **{k: float(v) for k, v in values.items() if isinstance(v, int | float)}
  )


def record(run: Run, folder: str, code: int, spent: Spent) -> Outcome:
  """Writes how a process of a run has ended, and returns it.

  Args:
    run: The run.
    folder: Its folder.
    code: The exit code; the negative number of a signal that killed it.
    spent: The time of its processes, those before included.
  """
  metrics = last_validation(folder, run.steps) if code == 0 else {}
  document = {"config": run.document, "done": bool(metrics)}
  write_record(os.path.join(folder, RECORD), document, spent)
  if metrics:
    return Outcome("done", metrics, spent)
  return Outcome("failed", {}, spent, reason(folder, code))


def write_record(path: str, document: Mapping[str, Any], spent: Spent) -> None:
  """Writes a record of a sweep with the time of its processes."""
  times = {k: round(v, 3) for k, v in dataclasses.asdict(spent).items()}
  content = json.dumps({**document, **times}, indent=2).encode()
  files.replace(path, content)


def last_validation(folder: str, steps: int) -> dict[str, float]:
  """Returns the metrics of the validation after all steps; {} without one."""
  last: dict[str, Any] = {}
  try:
    for line in iterate_metrics(folder):
      if line.get("split") == "validation":
        last = line
  except (OSError, UserError):
    return {}
  if last.get("step") != steps:
    return {}
  return {k: v for k, v in last.items() if k not in _COUNTS}


def last_step(folder: str) -> int:
  """Returns the step of the last line of metrics; 0 without one."""
  for line in reversed(_tail(os.path.join(folder, FILE_NAME))):
    try:
      step = json.loads(line)["step"]
    # The last line may be incomplete.
    except (ValueError, KeyError, TypeError, RecursionError):
      continue
    return step if isinstance(step, int) else 0
  return 0


def reason(folder: str, code: int) -> str:
  """Returns why a process ended: its error line, a signal, its last words."""
  lines = [x for x in _tail(os.path.join(folder, OUTPUT)) if x.strip()]
  # Lines before the command belong to earlier processes.
  starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
  lines = lines[starts[-1] + 1 :] if starts else lines
  errors = [x for x in lines if x.startswith("error: ")]
  if errors:
    return one_line(errors[-1].removeprefix("error: "), 500)
  number = -code if code < 0 else code - 128
  if number in set(signal.Signals):
    name = signal.Signals(number).name
    hint = ", perhaps for its memory" if name == "SIGKILL" else ""
    return f"{name} ended its process{hint}"
  if code == 0:
    return f"it ended without a validation after its last step, in {FILE_NAME}"
  words = f": {one_line(lines[-1], 300)}" if lines else ""
  return f"exit code {code}{words}"


def _tail(path: str) -> list[str]:
  """The last lines of a file; [] if it cannot be read."""
  try:
    with open(path, "rb") as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(max(0, size - _TAIL))
      return file.read().decode(errors="replace").splitlines()
  except OSError:
    return []


def mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
  """Returns the mean, the lowest and the highest of some numbers."""
  return math.fsum(values) / len(values), min(values), max(values)
