"""Trackers: services that get a run's metrics, beside `metrics.jsonl`.

`config.trackers` asks for them by name; each needs its package. A tracker
changes nothing in the training, so a run may resume with others.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from train import files
from train.errors import UserError, one_line, shown

# Modules that the trackers import, by the names in a config.
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
# The first line of this file is "run ID"; a line "STEP SPLIT" follows for each
# line of metrics that was sent.
_SENT = "wandb.txt"


class Tracker(Protocol):
  """Takes the metrics of a run."""

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Takes the values of one line of `metrics.jsonl`.

    Args:
      step: Number of updates done.
      split: "train", "validation", "baseline" or "model".
      values: Numbers by name; they may be infinite or NaN.
    """

  def close(self) -> None:
    """Sends the lines that are not sent yet."""


# Opens a tracker; takes the first step that it will get, -1 in a new run.
Opener = Callable[[int], Tracker]


def require(names: Sequence[str]) -> None:
  """Checks that the packages of some trackers are installed.

  Raises:
    UserError: A package is missing; the error has the command that installs it.
  """
  for name in names:
    if importlib.util.find_spec(MODULES[name]) is None:
      raise UserError(
        f"config.trackers asks for {name}, which is not installed:"
        f" python -m pip install {MODULES[name]}"
      )


def openers(
  names: Collection[str], workdir: str, config: Mapping[str, Any]
) -> list[Opener]:
  """Returns the functions that open the trackers of a run.

  Args:
    names: Keys of `MODULES`.
    workdir: The run's directory.
    config: The run's config as JSON, for trackers that show it.
  """
  known: dict[str, Opener] = {
    "tensorboard": lambda first: TensorBoard(workdir, first),
    "wandb": lambda first: WeightsAndBiases(workdir, first, config),
  }
  return [known[name] for name in dict.fromkeys(names)]


class TensorBoard:
  """Writes events to `workdir`, by `tensorboardX`.

  When a run resumes, TensorBoard drops the earlier events of the steps from
  `first` on.

  Args:
    workdir: The run's directory.
    first: The first step that will be written; -1 for a new run.
  """

  def __init__(self, workdir: str | os.PathLike[str], first: int):
    import tensorboardX

    # A random name, so that nobody can place a link under it beforehand.
    self._events: Any = tensorboardX.SummaryWriter(
      str(workdir),
      purge_step=max(first, 0),
      filename_suffix=f".{secrets.token_hex(8)}",
    )

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """See `Tracker`."""
    for name, value in values.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    """See `Tracker`."""
    self._events.close()


class WeightsAndBiases:
  """Sends metrics to Weights & Biases, by `wandb`.

  The settings of `wandb` are its environment variables: WANDB_PROJECT
  ("jaxmodels" if unset), WANDB_MODE=offline to work without a network, and so
  on. The run has the name of `workdir`.

  Weights & Biases cannot replace what it has. So `workdir/wandb.txt` lists the
  lines that were sent, and a resumed run sends only those that are new.

  Args:
    workdir: The run's directory.
    first: The first step that will be written; -1 for a new run.
    config: The run's config as JSON.

  Raises:
    UserError: `wandb` refuses to start, such as without a login.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    first: int,
    config: Mapping[str, Any],
  ):
    import wandb

    folder = pathlib.Path(workdir)
    files.refuse_link(str(folder / "wandb"))
    path = folder / _SENT
    # The last step that was sent, by split.
    self._sent: dict[str, int] = {}
    known = self._read(path) if first >= 0 else None
    run_id = known or secrets.token_hex(8)
    if known is None:
      files.replace(str(path), f"run {run_id}\n".encode())
    try:
      self._run: Any = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "jaxmodels"),
        name=os.environ.get("WANDB_NAME", folder.resolve().name),
        dir=str(folder),
        id=run_id,
        resume="allow",
        config=dict(config),
        allow_val_change=True,
      )
      # With steps of its own, `wandb` drops lines that are out of order.
      self._run.define_metric("*", step_metric="step")
    # `wandb` has its own types of errors.
    except Exception as error:
      raise UserError(
        f"Weights & Biases cannot start: {one_line(error)}; log in by"
        " `wandb login`, or set WANDB_MODE=offline"
      ) from error
    self._file: BinaryIO = files.open_append(str(path))

  def _read(self, path: pathlib.Path) -> str | None:
    """Reads what was sent; returns the run's id, or None if there is none."""
    files.refuse_link(str(path))
    if not path.exists():
      return None
    # A killed run may leave half a line.
    content = files.read(str(path)).decode("ascii", "replace")
    text, _, rest = content.rpartition("\n")
    run, *lines = text.split("\n")
    found = re.fullmatch(r"run ([0-9a-f]{16})", run)
    if found is None:
      raise UserError(f"{path} starts with {shown(run)}, not a run: remove it")
    for line in lines:
      step, _, split = line.partition(" ")
      if re.fullmatch("[0-9]{1,10}", step):
        self._sent[split] = int(step)
    if rest:
      files.replace(str(path), f"{text}\n".encode())
    return found[1]

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """See `Tracker`."""
    if step <= self._sent.get(split, -1):
      return
    # The note comes first: a lost line is better than one that is sent twice.
    self._file.write(f"{step} {split}\n".encode())
    self._file.flush()
    self._sent[split] = step
    named = {f"{split}/{name}": value for name, value in values.items()}
    self._run.log({"step": step, **named})

  def close(self) -> None:
    """See `Tracker`."""
    self._file.close()
    self._run.finish()
