"""Writes checkpoints, and reads them with checks.

A checkpoint holds the state, the data position and the config. Every file of
it is listed with its size and checksum once it is complete, so that a damaged
checkpoint is detected before it is used. Each process writes and reads the
shards of the state that its devices hold.

Only this file uses orbax, through its v0 interface, since v1 is still
experimental. Orbax writes and reads arrays. This file decides which checkpoints
to keep, from the metrics in each checkpoint, since orbax forgets the metrics
when its process ends.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from jax.experimental import multihost_utils

from train.config import BEST_METRICS
from train.devices.processes import is_first, on_process_zero
from train.errors import RunError, UserError, is_disk_full, one_line
from train.files import refuse_link
from train.files.checkpoint_folder import (
  CHECKSUMS,
  TEMPORARY,
  path_of,
  ranked,
  read_meta,
  read_metrics,
  remove,
  set_aside,
  steps,
  superfluous,
  verify,
)
from train.files.checkpoint_folder import checksums as _checksums
from train.files.plain_path import plain_path
from train.files.untrusted import check_meta
from train.quiet import quiet_threads

# Bytes that a checkpoint may need in addition to its arrays.
_SLACK = 1 << 20


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


class Checkpoints:
  """Writes the checkpoints of one run, in the background.

  All processes call its methods, in the same order.

  Args:
    workdir: The run's directory.
    keep: Number of latest checkpoints to keep.
    best_metric: Metric of the best checkpoint, which is kept too.
  """

  def __init__(self, workdir: str, *, keep: int, best_metric: str):
    self._workdir = workdir
    self._folder = path_of(workdir)
    self._keep = keep
    self._best_metric = best_metric
    self._step = -1
    # Metrics of the existing checkpoints, by step.
    self._metrics: dict[int, Mapping[str, float]] = {}
    quiet_threads()
    self._open = contextlib.ExitStack()
    self._path = self._open.enter_context(plain_path(self._folder))
    options = ocp.AsyncOptions(
      post_finalization_callback=self._add_checksums,
      # Otherwise, where a directory cannot be made, threads of orbax keep the
      # process for five minutes.
      create_directories_asynchronously=False,
    )
    self._writer = self._open.enter_context(
      contextlib.closing(
        ocp.AsyncCheckpointer(
          ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(async_options=options)
          ),
          async_options=options,
        )
      )
    )

  def save(self, snapshot: Snapshot) -> None:
    """Starts to write a checkpoint, after the one before is complete.

    Args:
      snapshot: What to write. Its `state` may be any pytree of arrays of JAX
        that flax can serialize. They may be donated after this returns: what
        is not written yet is on the host, or kept from being written over.

    Raises:
      OSError: The disk is full. Checkpoints that were complete stay, as they
        do after the other errors.
      RunError: This one, or the one before, could not be written.
    """
    with self._explained():
      self._writer.wait_until_finished()
    self._step = snapshot.step
    state = serialization.to_state_dict(snapshot.state)
    meta = {
      field.name: getattr(snapshot, field.name)
      for field in dataclasses.fields(snapshot)
      if field.name != "state"
    }
    with self._explained():
      on_process_zero(lambda: self._make_room(state))
      self._writer.save(
        os.path.join(self._path, str(snapshot.step)),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          meta=ocp.args.JsonSave(meta),
        ),
      )

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns what the writer raises into one line."""
    try:
      yield
    except Exception as error:
      is_lost = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
      is_ours = isinstance(error, UserError | RunError)
      if is_lost or is_ours or is_disk_full(error):
        raise
      is_gone = not os.path.isdir(self._folder)
      reason = "it is no directory now" if is_gone else _reason(error)
      raise RunError(
        f"the checkpoint of step {self._step} cannot be written to"
        f" {self._folder}: {reason}; the same command resumes from the last"
        " complete checkpoint"
      ) from error

  def _make_room(self, state: Any) -> None:
    """Sees that a checkpoint can be written, and removes what it replaces.

    A full disk is found before orbax begins to fill it: its threads would
    report the failure many times over.
    """
    refuse_link(self._folder)
    os.makedirs(self._folder, exist_ok=True)
    self._remove_superfluous()
    path = os.path.join(self._folder, str(self._step))
    if os.path.lexists(path):
      raise RunError(
        f"{path} is not of this run: move it away, and the same command resumes"
        " from the last complete checkpoint"
      )
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK
    if shutil.disk_usage(self._folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._folder)

  def _remove_superfluous(self) -> None:
    """Removes the checkpoints that do not stay, once later ones are complete.

    What the metrics are is read from the checkpoints, so that it does not
    matter whether this process wrote them or one before it.
    """
    known = self._metrics
    self._metrics = {
      step: known[step] if step in known else read_metrics(self._workdir, step)
      for step in steps(self._workdir)
    }
    for step in superfluous(self._metrics, self._best_metric, self._keep):
      remove(os.path.join(self._folder, str(step)))
      del self._metrics[step]

  def _add_checksums(self) -> None:
    """Lists the files of the checkpoint that is about to be completed.

    Orbax calls this in the first process when all have written their contents
    and before the directory gets its final name, so a complete checkpoint
    always has its list.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    for name in os.listdir(self._folder):
      if name.split(".")[0] == str(self._step):
        folder = os.path.join(self._folder, name)
        descriptor = os.open(os.path.join(folder, CHECKSUMS), flags, 0o666)
        with open(descriptor, "w") as file:
          json.dump(_checksums(folder), file)

  def close(self) -> None:
    """Waits for what is being written, then ends the threads."""
    with self._open, self._explained():
      self._writer.wait_until_finished()
      if is_first():
        self._remove_superfluous()


def _reason(error: BaseException) -> str:
  """Returns why a write failed, without the paths of the library's files."""
  # TensorStore tells the number of the system's error in its text.
  found = re.search(r"os_error_code='(\d+)'", str(error))
  number = int(found[1]) if found else getattr(error, "errno", None)
  if number == errno.EFBIG:
    return "a file is larger than this process may write (`ulimit -f`)"
  if number:
    return os.strerror(number)
  # The cause is at the end, before what the library was asked for.
  return one_line(error).partition(" [tensorstore_spec=")[0][-200:]


def _alone() -> ocp.options.MultiprocessingOptions:
  """Options of a reader that other processes know nothing of."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


def _read(workdir: str, step: int) -> Snapshot:
  """Reads one checkpoint without its state; raises what is wrong with it."""
  folder = os.path.join(path_of(workdir), str(step))
  verify(folder)
  return Snapshot(state=None, **check_meta(read_meta(folder), step))


def _read_whole(workdir: str, step: int) -> Snapshot:
  """Reads one checkpoint, its state as numpy arrays, in this process alone."""
  snapshot = _read(workdir, step)
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
  with (
    plain_path(path_of(workdir)) as path,
    ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader,
  ):
    folder = os.path.join(path, str(step), "state")
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
  wanted = serialization.to_state_dict(shapes)
  with (
    plain_path(path_of(workdir)) as path,
    ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader,
  ):
    folder = os.path.join(path, str(step), "state")
    state = reader.restore(folder, args=ocp.args.StandardRestore(wanted))
  return serialization.from_state_dict(shapes, state)


def restore_latest(
  workdir: str,
  snapshot: Snapshot,
  shapes: Any,
  log: Callable[[str], None],
) -> tuple[Snapshot, Any]:
  """Reads the state of a checkpoint, or of an older one; changes nothing.

  All processes call this.

  Args:
    workdir: The run's directory.
    snapshot: What `latest` returned.
    shapes: As for `restore`.
    log: Takes one line about every checkpoint that is skipped.

  Returns:
    The checkpoint that could be restored, without its state, and the state.

  Raises:
    UserError: None can be restored.
  """
  found: Snapshot | None = snapshot
  while found is not None:
    step, reason = found.step, ""
    try:
      state = restore(workdir, step, shapes)
    # No fault of the checkpoint: too little memory, or another process lost.
    except (MemoryError, TimeoutError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:
      reason = one_line(error)[:200]
    if not _any(bool(reason)):
      return found, state
    log(
      f"skipping the checkpoint of step {step}, it is whole but cannot be"
      f" restored: {reason}"
    )
    found = _on_first(functools.partial(_latest_before, workdir, step, log))
  raise UserError(
    f"none of the checkpoints in {path_of(workdir)} can be restored; if the"
    " code of the model has changed, go back to that which wrote them, or give"
    " another --workdir"
  )


def _any(own: bool) -> bool:
  """Whether a condition is true in any process."""
  if jax.process_count() == 1:
    return own
  return bool(multihost_utils.process_allgather(np.array(own)).any())


def _latest_before(
  workdir: str, step: int, log: Callable[[str], None]
) -> Snapshot | None:
  older = [number for number in steps(workdir) if number < step]
  return _first(older[::-1], workdir, log, _read)


def latest(workdir: str, log: Callable[[str], None]) -> Snapshot | None:
  """Finds the latest checkpoint that can be read, and changes nothing.

  Process 0 searches and broadcasts the result.

  Args:
    workdir: The run's directory.
    log: Takes one line about every checkpoint that is skipped.

  Returns:
    The checkpoint without its state, or None where there never was one.

  Raises:
    UserError: There are checkpoints, and none can be read. To start again in
      silence would throw a run away.
  """
  return _on_first(lambda: _latest(workdir, log))


def _on_first(find: Callable[[], Snapshot | None]) -> Snapshot | None:
  """Calls a function in the first process; all get the checkpoint it finds."""

  def run() -> dict[str, Any] | None:
    found = find()
    return None if found is None else dataclasses.asdict(found)

  found = on_process_zero(run)
  return None if found is None else Snapshot(**found)


def _latest(workdir: str, log: Callable[[str], None]) -> Snapshot | None:
  available = steps(workdir)[::-1]
  if not available:
    return None
  found = _first(available, workdir, log, _read)
  if found is None:
    raise UserError(
      f"none of the checkpoints in {path_of(workdir)} can be read; to start"
      " again from nothing, remove that directory"
    )
  return found


def clear(
  workdir: str, snapshot: Snapshot | None, log: Callable[[str], None]
) -> None:
  """Removes or moves checkpoints in the way of a run that resumes.

  Half-written checkpoints are removed. Later ones, which could not be read,
  are moved to `corrupt/`, so that the run can write their steps again.
  Process 0 does this.

  Args:
    workdir: The run's directory.
    snapshot: Where the run resumes; None for a new run.
    log: Takes one line about every checkpoint that is removed.
  """
  on_process_zero(lambda: _clear(workdir, snapshot, log))


def _clear(
  workdir: str, snapshot: Snapshot | None, log: Callable[[str], None]
) -> None:
  folder = path_of(workdir)
  refuse_link(folder)
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    if TEMPORARY in name:
      path = os.path.join(folder, name)
      log(f"skipping {path}, which is half-written")
      remove(path)
  for step in steps(workdir)[::-1]:
    if snapshot is not None and step > snapshot.step:
      set_aside(workdir, step)


def load(workdir: str, which: str, log: Callable[[str], None]) -> Snapshot:
  """Reads a checkpoint without changing anything.

  Args:
    workdir: The run's directory.
    which: "latest" (that can be read), "best", or a step.
    log: Takes one line about every checkpoint that is skipped.

  Raises:
    UserError: There is no such checkpoint, or it cannot be read.
  """
  available = steps(workdir)
  if not available:
    raise UserError(f"there is no checkpoint in {workdir}")
  if which == "best":
    return _try(_best_first(workdir, available), workdir, log)
  if which == "latest":
    return _try(available[::-1], workdir, log)
  if which in map(str, available):
    return _try([int(which)], workdir, log)
  known = ", ".join(map(str, available))
  raise UserError(
    f"no checkpoint {which!r} in {workdir}; there are latest, best, {known}"
  )


def _try(
  candidates: list[int], workdir: str, log: Callable[[str], None]
) -> Snapshot:
  """Reads the first of some checkpoints that can be read, as a whole."""
  found = _first(candidates, workdir, log, _read_whole)
  if found is None:
    raise UserError(f"the checkpoints asked for in {workdir} cannot be read")
  return found


def _first(
  candidates: list[int],
  workdir: str,
  log: Callable[[str], None],
  read: Callable[[str, int], Snapshot],
) -> Snapshot | None:
  """Reads the first of some checkpoints that can be read, if any can."""
  for step in candidates:
    try:
      return read(workdir, step)
    # Whatever a damaged file makes a reader raise, the answer is the same.
    except Exception as error:
      reason = one_line(error)[:200]
      log(f"skipping the checkpoint of step {step}, it is damaged: {reason}")
  return None


def _best_first(workdir: str, available: list[int]) -> list[int]:
  """Returns the steps that have validation metrics, the best one first."""
  metrics: dict[int, Mapping[str, float]] = {}
  metric = ""
  for step in available:
    with contextlib.suppress(Exception):
      meta = read_meta(os.path.join(path_of(workdir), str(step)))
      metric = meta["config"]["best_metric"]
      metrics[step] = meta["metrics"]
  found = ranked(metrics, metric) if metric in BEST_METRICS else []
  if not found:
    raise UserError(f"no checkpoint in {workdir} has validation metrics")
  return found
