"""Checkpoints: what a run needs to go on, and reading it back with care.

A checkpoint holds the state, the data position and the config. Every file of
it is listed with its size and checksum once it is complete, so that a damaged
one is known before anything of it is used. Where several processes run, each
writes and reads the pieces of the state that its devices hold. This is the
only file that knows orbax, and it uses its v0 interface: v1 is still
experimental.
"""

import dataclasses
import errno
import json
import os
import re
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
from train.processes import on_first
from train.untrusted import check_listed, check_meta, read_json

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
    state: The state as nested dictionaries of arrays; None where only the
      rest was read.
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
  """Returns the steps of the checkpoints there are, readable or not.

  Raises:
    UserError: A name there is a number, but not as a step is written.
  """
  folder = _folder(workdir)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  names = [name for name in names if name.isdigit()]
  for name in names:
    if re.fullmatch("0|[1-9][0-9]*", name) is None:
      path = os.path.join(folder, name)
      raise UserError(f"{path} is not named by a step, such as 100: remove it")
  return sorted(map(int, names))


class Checkpoints:
  """Writes the checkpoints of one run, in the background.

  All processes call its methods, in the same order.

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
      snapshot: What to write. Its `state` may be any pytree of arrays of JAX
        that flax can serialize. They may be donated after this returns: what
        is not written yet is on the host, or kept from being written over.

    Raises:
      OSError: This one, or the one before, could not be written. Checkpoints
        that were complete stay.
    """
    self._manager.wait_until_finished()
    self._step = snapshot.step
    state = serialization.to_state_dict(snapshot.state)
    on_first(lambda: self._require_space(state))
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

    Orbax calls this in the first process when all have written their contents
    and before the directory gets its final name, so a complete checkpoint
    always has its list.
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
  listed = read_json(path)
  check_listed(folder, listed)
  for name, (size, crc) in listed.items():
    found = os.path.join(folder, name)
    if not os.path.exists(found):
      raise ValueError(f"{name} is missing")
    actual = os.path.getsize(found)
    if actual != size:
      raise ValueError(f"{name} has {actual} bytes instead of {size}")
    if _checksum(found)[1] != crc:
      raise ValueError(f"{name} has changed since it was written")


def _alone() -> ocp.options.MultiprocessingOptions:
  """Options of a reader that other processes know nothing of."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


def _read(workdir: str, step: int) -> Snapshot:
  """Reads one checkpoint without its state; raises what is wrong with it."""
  folder = os.path.join(_folder(workdir), str(step))
  _verify(folder)
  handler = ocp.JsonCheckpointHandler(multiprocessing_options=_alone())
  with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
    meta = reader.restore(os.path.join(folder, "meta"))
  return Snapshot(state=None, **check_meta(meta, step))


def _read_whole(workdir: str, step: int) -> Snapshot:
  """Reads one checkpoint, its state as numpy arrays, in this process alone."""
  snapshot = _read(workdir, step)
  folder = os.path.join(_folder(workdir), str(step), "state")
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
  with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
    # Without the type, orbax looks for the devices that the arrays were on.
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    state = reader.restore(
      folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )
  return dataclasses.replace(snapshot, state=state)


def restore(workdir: str, step: int, shapes: Any) -> Any:
  """Reads a state to where it is wanted; all processes call this.

  Args:
    workdir: The run's directory.
    step: Of a checkpoint that `latest` found.
    shapes: A state of `jax.ShapeDtypeStruct` with shardings. The devices need
      not be those, nor as many as those, that the state was written from.

  Returns:
    A state like `shapes`, of arrays on these devices.
  """
  folder = os.path.join(_folder(workdir), str(step), "state")
  wanted = serialization.to_state_dict(shapes)
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    state = reader.restore(folder, args=ocp.args.StandardRestore(wanted))
  return serialization.from_state_dict(shapes, state)


def latest(workdir: str, say: Callable[[str], None]) -> Snapshot | None:
  """Finds the latest checkpoint that can be read, and changes nothing.

  Of several processes, the first looks and tells the others.

  Args:
    workdir: The run's directory.
    say: Takes one line about every checkpoint that is skipped.

  Returns:
    The checkpoint without its state, or None where there never was one.

  Raises:
    UserError: There are checkpoints, and none can be read. To start again in
      silence would throw a run away.
  """

  def find() -> dict[str, Any] | None:
    found = _latest(workdir, say)
    return None if found is None else dataclasses.asdict(found)

  found = on_first(find)
  return None if found is None else Snapshot(**found)


def _latest(workdir: str, say: Callable[[str], None]) -> Snapshot | None:
  available = steps(workdir)[::-1]
  if not available:
    return None
  try:
    return _try(available, workdir, say, _read)
  except UserError as error:
    raise UserError(
      f"none of the checkpoints in {_folder(workdir)} can be read; to start"
      " again from nothing, remove that directory"
    ) from error


def clear(
  workdir: str, snapshot: Snapshot | None, say: Callable[[str], None]
) -> None:
  """Makes room for a run that goes on from the checkpoint of `latest`.

  Half-written checkpoints are removed. Later ones, which could not be read,
  are moved to `corrupt/`, so that the run can write their steps again. Of
  several processes, the first does it.

  Args:
    workdir: The run's directory.
    snapshot: What `latest` returned.
    say: Takes one line about every checkpoint that is removed.
  """
  on_first(lambda: _clear(workdir, snapshot, say))


def _clear(
  workdir: str, snapshot: Snapshot | None, say: Callable[[str], None]
) -> None:
  folder = _folder(workdir)
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    path = os.path.join(folder, name)
    if _TEMPORARY in name:
      say(f"skipping {path}, which is half-written")
      os.unlink(path) if os.path.islink(path) else shutil.rmtree(path)
  for step in steps(workdir)[::-1]:
    if snapshot is not None and step > snapshot.step:
      _set_aside(workdir, step)


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
  if which in map(str, available):
    return _try([int(which)], workdir, say)
  known = ", ".join(map(str, available))
  raise UserError(
    f"no checkpoint {which!r} in {workdir}; there are latest, best, {known}"
  )


def _try(
  candidates: list[int],
  workdir: str,
  say: Callable[[str], None],
  read: Callable[[str, int], Snapshot] = _read_whole,
) -> Snapshot:
  """Reads the first of some checkpoints that can be read."""
  for step in candidates:
    try:
      return read(workdir, step)
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
      snapshot = _read(workdir, step)
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
