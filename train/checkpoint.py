"""Checkpoints: what a run needs to go on, and reading it back with care.

A checkpoint holds the state, the data position and the config. Every file of
it is listed with its size and checksum once it is complete, so that a damaged
one is known before anything of it is used. This is the only file that knows
orbax, and it uses its v0 interface: v1 is still experimental.
"""

import dataclasses
import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from train.config import BEST_METRICS
from train.errors import UserError, one_line

_CHECKSUMS = "checksums.json"
_ITEMS = ("state", "meta")
# Bytes that a checkpoint may take beside its arrays.
_SLACK = 1 << 20
_TEMPORARY = ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """One checkpoint.

  Attributes:
    step: Updates done.
    state: The state as nested dictionaries of numpy arrays.
    position: Examples consumed, over all processes.
    config: The config, of `serialize.to_json`.
    metrics: Validation metrics of this state; empty if it was saved between
      two validations.
    evaluated: Whether the validation due at this step had been done.
  """

  step: int
  state: Any
  position: int
  config: Any
  metrics: Mapping[str, float]
  evaluated: bool


def _folder(workdir: str) -> str:
  # Orbax wants absolute paths.
  return os.path.join(os.path.abspath(workdir), "checkpoints")


def steps(workdir: str) -> list[int]:
  """Returns the steps of the checkpoints there are, readable or not."""
  folder = _folder(workdir)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return sorted(int(name) for name in names if name.isdigit())


class Checkpoints:
  """Writes the checkpoints of one run, in the background.

  Args:
    workdir: The run's directory.
    keep: How many of the latest stay.
    best_metric: The metric that chooses one more to stay, the best.
  """

  def __init__(self, workdir: str, *, keep: int, best_metric: str):
    self._folder = _folder(workdir)
    self._step = -1
    policies = ocp.checkpoint_managers
    best = policies.BestN(
      get_metric_fn=lambda metrics: metrics[best_metric],
      reverse=BEST_METRICS[best_metric] is min,
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    latest = policies.LatestN(keep)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([latest, best]),
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._add_checksums
        ),
      ),
    )

  def save(self, snapshot: Snapshot) -> None:
    """Starts to write a checkpoint, after the one before is complete.

    Args:
      snapshot: What to write; its arrays must not change after, and its
        `state` may be any pytree that flax can serialize.

    Raises:
      OSError: This one, or the one before, could not be written. Checkpoints
        that were complete stay.
    """
    self._manager.wait_until_finished()
    self._step = snapshot.step
    state = serialization.to_state_dict(snapshot.state)
    state = jax.tree.map(np.asarray, state)
    self._require_space(state)
    meta = {
      field.name: getattr(snapshot, field.name)
      for field in dataclasses.fields(snapshot)
      if field.name != "state"
    }
    self._manager.save(
      snapshot.step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave(meta),
      ),
      metrics=dict(snapshot.metrics) or None,
    )

  def _require_space(self, state: Any) -> None:
    """Raises the error of a full disk before orbax begins to fill it.

    Its threads would report the failure many times over.
    """
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK
    if shutil.disk_usage(self._folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._folder)

  def _add_checksums(self) -> None:
    """Lists the files of the checkpoint that is about to be completed.

    Orbax calls this when the contents are written and before the directory
    gets its final name, so a complete checkpoint always has its list.
    """
    for name in os.listdir(self._folder):
      if name.split(".")[0] == str(self._step):
        folder = os.path.join(self._folder, name)
        with open(os.path.join(folder, _CHECKSUMS), "w") as file:
          json.dump(_checksums(folder), file)

  def close(self) -> None:
    """Waits for what is being written, then ends the threads."""
    try:
      self._manager.wait_until_finished()
    finally:
      self._manager.close()


def _checksums(folder: str) -> dict[str, list[int]]:
  """Returns size and CRC-32 of every file of a checkpoint's contents."""
  sums: dict[str, list[int]] = {}
  for item in _ITEMS:
    for parent, _, names in os.walk(os.path.join(folder, item)):
      for name in names:
        path = os.path.join(parent, name)
        sums[os.path.relpath(path, folder)] = _checksum(path)
  return sums


def _checksum(path: str) -> list[int]:
  size, crc = 0, 0
  with open(path, "rb") as file:
    while chunk := file.read(1 << 20):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
  return [size, crc]


def _verify(folder: str) -> None:
  """Compares a checkpoint's files with its list."""
  path = os.path.join(folder, _CHECKSUMS)
  if not os.path.exists(path):
    raise ValueError(f"{_CHECKSUMS} is missing, so it was never completed")
  with open(path) as file:
    listed = json.load(file)
  for name, (size, crc) in listed.items():
    found = os.path.join(folder, name)
    if not os.path.exists(found):
      raise ValueError(f"{name} is missing")
    actual = os.path.getsize(found)
    if actual != size:
      raise ValueError(f"{name} has {actual} bytes instead of {size}")
    if _checksum(found)[1] != crc:
      raise ValueError(f"{name} has changed since it was written")


def _read(workdir: str, step: int, *, with_state: bool = True) -> Snapshot:
  """Reads one checkpoint; raises whatever is wrong with it."""
  folder = os.path.join(_folder(workdir), str(step))
  _verify(folder)
  handlers = {"meta": ocp.JsonCheckpointHandler()}
  wanted = {"meta": ocp.args.JsonRestore()}
  if with_state:
    handlers["state"] = ocp.StandardCheckpointHandler()
    wanted["state"] = ocp.args.StandardRestore()
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as reader:
    found = reader.restore(folder, args=ocp.args.Composite(**wanted))
  state = found["state"] if with_state else None
  return Snapshot(state=state, **found["meta"])


def restore_latest(workdir: str, say: Callable[[str], None]) -> Snapshot | None:
  """Reads the latest checkpoint that can be read, to go on from it.

  Unreadable ones are moved to `corrupt/`, so that the run can write their
  steps again, and half-written ones are removed.

  Args:
    workdir: The run's directory.
    say: Takes one line about every checkpoint that is skipped.

  Returns:
    The checkpoint, or None where there never was one.

  Raises:
    UserError: There are checkpoints, and none can be read. To start again in
      silence would throw a run away.
  """
  folder = _folder(workdir)
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    if _TEMPORARY in name:
      say(f"skipping {os.path.join(folder, name)}, which is half-written")
      shutil.rmtree(os.path.join(folder, name))
  available = steps(workdir)[::-1]
  if not available:
    return None
  try:
    found = _try(available, workdir, say)
  except UserError as error:
    raise UserError(
      f"none of the checkpoints in {folder} can be read; to start again from"
      " nothing, remove that directory"
    ) from error
  for step in available[: available.index(found.step)]:
    _set_aside(workdir, step)
  return found


def _set_aside(workdir: str, step: int) -> None:
  corrupt = os.path.join(os.path.abspath(workdir), "corrupt")
  os.makedirs(corrupt, exist_ok=True)
  taken = len(os.listdir(corrupt))
  source = os.path.join(_folder(workdir), str(step))
  os.rename(source, os.path.join(corrupt, f"{taken}-step-{step}"))


def load(workdir: str, which: str, say: Callable[[str], None]) -> Snapshot:
  """Reads a checkpoint without changing anything.

  Args:
    workdir: The run's directory.
    which: "latest" (that can be read), "best", or a step.
    say: Takes one line about every checkpoint that is skipped.

  Raises:
    UserError: There is no such checkpoint, or it cannot be read.
  """
  available = steps(workdir)
  if not available:
    raise UserError(f"there is no checkpoint in {workdir}")
  if which == "best":
    return _try([_best_step(workdir, available)], workdir, say)
  if which == "latest":
    return _try(available[::-1], workdir, say)
  if which.isdigit() and int(which) in available:
    return _try([int(which)], workdir, say)
  known = ", ".join(map(str, available))
  raise UserError(
    f"no checkpoint {which!r} in {workdir}; there are latest, best, {known}"
  )


def _try(
  candidates: list[int], workdir: str, say: Callable[[str], None]
) -> Snapshot:
  """Reads the first of some checkpoints that can be read."""
  for step in candidates:
    try:
      return _read(workdir, step)
    # Whatever a damaged file makes a reader raise, the answer is the same.
    except Exception as error:
      reason = one_line(error)[:200]
      say(f"skipping the checkpoint of step {step}, it is damaged: {reason}")
  raise UserError(f"the checkpoints asked for in {workdir} cannot be read")


def _best_step(workdir: str, available: list[int]) -> int:
  scores: dict[int, float] = {}
  choose = min
  for step in available:
    try:
      snapshot = _read(workdir, step, with_state=False)
    except Exception:
      # It cannot be the best one to use if it cannot be read.
      continue
    metric = snapshot.config["best_metric"]
    choose = BEST_METRICS[metric]
    if metric in snapshot.metrics:
      scores[step] = snapshot.metrics[metric]
  if not scores:
    raise UserError(f"no checkpoint in {workdir} has validation metrics")
  return choose(scores, key=lambda step: scores[step])
