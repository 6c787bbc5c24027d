"""Writes checkpoints, and reads them with checks.

A checkpoint holds the state, the data position and the config. A complete
checkpoint also has a list of all files with their sizes and checksums, so that
damage is detected before the checkpoint is used. Each process writes and reads
the shards of the state on its devices.

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
    step: Number of updates done.
    state: The state as nested dictionaries of arrays; None if it was not read.
    position: Number of examples consumed by all processes.
    config: The config, from `serialize.to_json`.
    metrics: Validation metrics of this state; empty if it was saved between two
      validations.
    evaluated: Whether the validation due at this step was done.
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
    best: "min" or "max": which of its values are best.
  """

  def __init__(
    self, workdir: str, *, keep: int, best_metric: str, best: str = "min"
  ):
    self._workdir = workdir
    self._folder = path_of(workdir)
    self._keep = keep
    self._best_metric, self._best = best_metric, best
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
      snapshot: The checkpoint to write. Its `state` may be any pytree of JAX
        arrays that flax can serialize. The arrays may be donated after this
        returns: orbax has copied them to the host, or holds references that
        prevent overwriting.

    Raises:
      OSError: The disk is full. Complete checkpoints stay, here and after the
        other errors.
      RunError: This checkpoint, or the one before, could not be written.
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
    """Turns errors of the writer into one line."""
    try:
      yield
    except Exception as error:
      is_lost = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
      is_ours = isinstance(error, UserError | RunError)
      if is_lost or is_ours or is_disk_full(error):
        raise
      is_gone = not os.path.isdir(self._folder)
      reason = "it is not a directory now" if is_gone else _reason(error)
      raise RunError(
        f"the checkpoint of step {self._step} cannot be written to"
        f" {self._folder}: {reason}; the same command resumes from the last"
        " complete checkpoint"
      ) from error

  def _make_room(self, state: Any) -> None:
    """Checks that a checkpoint can be written, and removes superfluous ones.

    This detects a full disk before orbax writes, since each of its threads
    would report the failure.
    """
    refuse_link(self._folder)
    os.makedirs(self._folder, exist_ok=True)
    self._remove_superfluous()
    path = os.path.join(self._folder, str(self._step))
    if os.path.lexists(path):
      raise RunError(
        f"{path} was not written by this run: move it away, and the same"
        " command resumes from the last complete checkpoint"
      )
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK
    if shutil.disk_usage(self._folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._folder)

  def _remove_superfluous(self) -> None:
    """Removes superfluous checkpoints; call it when later ones are complete.

    The metrics are read from the checkpoints, so it does not matter which
    process wrote them.
    """
    known = self._metrics
    self._metrics = {
      step: known[step] if step in known else read_metrics(self._workdir, step)
      for step in steps(self._workdir)
    }
    metric, best = self._best_metric, self._best
    for step in superfluous(self._metrics, metric, best, self._keep):
      remove(os.path.join(self._folder, str(step)))
      del self._metrics[step]

  def _add_checksums(self) -> None:
    """Lists the files of the checkpoint that is about to be completed.

    Orbax calls this in process 0 after all processes have written and before
    the directory gets its final name, so a complete checkpoint always has its
    list.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    for name in os.listdir(self._folder):
      if name.split(".")[0] == str(self._step):
        folder = os.path.join(self._folder, name)
        descriptor = os.open(os.path.join(folder, CHECKSUMS), flags, 0o666)
        with open(descriptor, "w") as file:
          json.dump(_checksums(folder), file)

  def close(self) -> None:
    """Waits for the checkpoint that is being written, then ends the threads."""
    with self._open, self._explained():
      self._writer.wait_until_finished()
      if is_first():
        self._remove_superfluous()


def _reason(error: BaseException) -> str:
  """Returns why a write failed, without the paths of the library's files."""
  # TensorStore's message contains the number of the system error.
  found = re.search(r"os_error_code='(\d+)'", str(error))
  number = int(found[1]) if found else getattr(error, "errno", None)
  if number == errno.EFBIG:
    return "a file is larger than this process may write (`ulimit -f`)"
  if number:
    return os.strerror(number)
  # The cause is at the end of the message, before TensorStore's spec.
  return one_line(error).partition(" [tensorstore_spec=")[0][-200:]


def _alone() -> ocp.options.MultiprocessingOptions:
  """Returns options of a reader that does not wait for other processes."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


def _read(workdir: str, step: int) -> Snapshot:
  """Reads and checks one checkpoint without its state.

  Raises:
    Exception: Something is wrong with the checkpoint.
  """
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
    # Without this type, orbax looks for the devices that held the arrays.
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      reader.metadata(folder).item_metadata.tree,
    )
    state = reader.restore(
      folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )
  return dataclasses.replace(snapshot, state=state)


def restore(workdir: str, step: int, shapes: Any) -> Any:
  """Reads a state onto devices; all processes call this.

  Args:
    workdir: The run's directory.
    step: The step of a checkpoint that `latest` found.
    shapes: A state of `jax.ShapeDtypeStruct` with shardings. The devices and
      their number may differ from those that wrote the state.

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
  """Reads the state of a checkpoint or an older one; changes no files.

  All processes call this.

  Args:
    workdir: The run's directory.
    snapshot: What `latest` returned.
    shapes: As for `restore`.
    log: Takes one line about every checkpoint that is skipped.

  Returns:
    The restored checkpoint without its state, and the state.

  Raises:
    UserError: No checkpoint can be restored.
  """
  found: Snapshot | None = snapshot
  while found is not None:
    step, reason = found.step, ""
    try:
      state = restore(workdir, step, shapes)
    # The checkpoint is not at fault: too little memory, or a lost process.
    except (MemoryError, TimeoutError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:
      reason = one_line(error)[:200]
    if not _any(bool(reason)):
      return found, state
    log(
      f"skipping the checkpoint of step {step}, it is complete but cannot be"
      f" restored: {reason}"
    )
    found = _on_first(functools.partial(_latest_before, workdir, step, log))
  raise UserError(
    f"none of the checkpoints in {path_of(workdir)} can be restored; if the"
    " code of the model has changed, go back to the version that wrote them, or"
    " give another --workdir"
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
  """Finds the latest readable checkpoint; changes no files.

  Process 0 searches and broadcasts the result.

  Args:
    workdir: The run's directory.
    log: Takes one line about every checkpoint that is skipped.

  Returns:
    The checkpoint without its state; None if there are no checkpoints.

  Raises:
    UserError: There are checkpoints, but none can be read. Starting again
      would silently discard the run.
  """
  return _on_first(lambda: _latest(workdir, log))


def _on_first(find: Callable[[], Snapshot | None]) -> Snapshot | None:
  """Finds a checkpoint in process 0 and broadcasts it."""

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
      " again from the first step, remove that directory"
    )
  return found


def clear(
  workdir: str, snapshot: Snapshot | None, log: Callable[[str], None]
) -> None:
  """Removes or moves checkpoints that a resuming run would overwrite.

  Half-written checkpoints are removed. Checkpoints after `snapshot`, which
  could not be read, are moved to `corrupt/`, so that the run can write their
  steps again. Process 0 does this.

  Args:
    workdir: The run's directory.
    snapshot: The checkpoint that the run resumes from; None for a new run.
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
  """Reads a checkpoint; changes no files.

  Args:
    workdir: The run's directory.
    which: "latest" (the latest readable one), "best", or a step.
    log: Takes one line about every checkpoint that is skipped.

  Raises:
    UserError: The checkpoint does not exist, or cannot be read.
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
  """Reads the first readable checkpoint, including its state."""
  found = _first(candidates, workdir, log, _read_whole)
  if found is None:
    raise UserError(f"the requested checkpoint in {workdir} cannot be read")
  return found


def _first(
  candidates: list[int],
  workdir: str,
  log: Callable[[str], None],
  read: Callable[[str, int], Snapshot],
) -> Snapshot | None:
  """Reads the first readable checkpoint; returns None if there is none."""
  for step in candidates:
    try:
      return read(workdir, step)
    # A damaged file can make the reader raise any type of error.
    except Exception as error:
      reason = one_line(error)[:200]
      log(f"skipping the checkpoint of step {step}, it is damaged: {reason}")
  return None


def _best_first(workdir: str, available: list[int]) -> list[int]:
  """Returns the steps that have validation metrics, the best one first."""
  metrics: dict[int, Mapping[str, float]] = {}
  metric, best = "", "min"
  for step in available:
    with contextlib.suppress(Exception):
      meta = read_meta(os.path.join(path_of(workdir), str(step)))
      metric = meta["config"]["best_metric"]
      best = meta["config"].get("$best", "min")
      metrics[step] = meta["metrics"]
  found = ranked(metrics, metric, best)
  if not found:
    raise UserError(f"no checkpoint in {workdir} has validation metrics")
  return found
