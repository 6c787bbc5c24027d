"""Writes the checkpoints of a run in the background.

Orbax writes arrays. This file decides which checkpoints to keep, from the
metrics in each checkpoint, since orbax forgets the metrics when its process
ends.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import serialization

from train.checkpoint.arrays import open_writer, start_writing
from train.checkpoint.snapshot import Snapshot
from train.devices.processes import is_first, on_process_zero
from train.errors import RunError, UserError, is_disk_full, one_line
from train.files import refuse_link
from train.files.checkpoint_folder import (
  CHECKSUMS,
  checksums,
  path_of,
  read_metrics,
  remove,
  steps,
  superfluous,
)
from train.files.plain_path import plain_path
from train.quiet import quiet_threads

# Bytes that a checkpoint may need in addition to its arrays.
_SLACK = 1 << 20


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
    self._writer = self._open.enter_context(
      contextlib.closing(open_writer(self._add_checksums))
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
      folder = os.path.join(self._path, str(snapshot.step))
      start_writing(self._writer, folder, state, meta)

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
          json.dump(checksums(folder), file)

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
