"""Reads checkpoints in one process, with checks; changes no files."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping

from train.checkpoint.arrays import read_arrays
from train.checkpoint.snapshot import Snapshot
from train.errors import UserError, one_line
from train.files.checkpoint_folder import (
  path_of,
  ranked,
  read_meta,
  steps,
  verify,
)
from train.files.plain_path import plain_path
from train.files.runs import runs_in
from train.files.untrusted import check_meta


def read(workdir: str, step: int) -> Snapshot:
  """Reads and checks one checkpoint without its state.

  Raises:
    Exception: Something is wrong with the checkpoint.
  """
  folder = os.path.join(path_of(workdir), str(step))
  verify(folder)
  return Snapshot(state=None, **check_meta(read_meta(folder), step))


def _read_whole(workdir: str, step: int) -> Snapshot:
  """Reads one checkpoint, its state as numpy arrays, in this process alone."""
  snapshot = read(workdir, step)
  with plain_path(path_of(workdir)) as path:
    state = read_arrays(os.path.join(path, str(step), "state"))
  return dataclasses.replace(snapshot, state=state)


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
    raise UserError(f"there is no checkpoint in {workdir}{_why_not(workdir)}")
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


def _why_not(workdir: str) -> str:
  """Says why a directory has no checkpoints, if that is clear; else ""."""
  if not os.path.isdir(workdir):
    return ", which is not a directory"
  found = runs_in(workdir)
  if found != [workdir]:
    return (
      f" itself, but it has runs in it: give one of them, such as {found[0]}"
    )
  return ""


def _try(
  candidates: list[int], workdir: str, log: Callable[[str], None]
) -> Snapshot:
  """Reads the first readable checkpoint, including its state."""
  found = first_readable(candidates, workdir, log, _read_whole)
  if found is None:
    raise UserError(f"the requested checkpoint in {workdir} cannot be read")
  return found


def first_readable(
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
