"""Finds the checkpoint that a run resumes from, and reads it onto devices.

All processes call these functions.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from train.checkpoint.arrays import restore_arrays
from train.checkpoint.read import first_readable, read
from train.checkpoint.snapshot import Snapshot
from train.devices.processes import on_process_zero
from train.errors import UserError, one_line
from train.files import refuse_link
from train.files.checkpoint_folder import (
  TEMPORARY,
  path_of,
  remove,
  set_aside,
  steps,
)
from train.files.plain_path import plain_path


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
  with plain_path(path_of(workdir)) as path:
    state = restore_arrays(os.path.join(path, str(step), "state"), wanted)
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
  return first_readable(older[::-1], workdir, log, read)


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
  found = first_readable(available, workdir, log, read)
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
