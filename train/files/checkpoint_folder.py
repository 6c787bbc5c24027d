"""The folder of a run's checkpoints: names, checksums, which ones to keep."""

import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

from train.errors import UserError
from train.files.untrusted import check_listed, read_json
from train.files.write import refuse_link

CHECKSUMS = "checksums.json"
# Part of the name of a checkpoint that is being written or removed.
TEMPORARY = ".orbax-checkpoint-tmp"
_ITEMS = ("state", "meta")


def path_of(workdir: str) -> str:
  """Returns the folder of a run's checkpoints, as an absolute path."""
  return os.path.join(os.path.abspath(workdir), "checkpoints")


def steps(workdir: str) -> list[int]:
  """Returns the steps of all checkpoints, readable or not.

  Raises:
    UserError: A name consists of digits, but is not a step, such as "007".
  """
  folder = path_of(workdir)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  names = [name for name in names if name.isdigit()]
  for name in names:
    if re.fullmatch("0|[1-9][0-9]*", name) is None:
      path = os.path.join(folder, name)
      raise UserError(
        f"{path} is not named after a step, such as 100: remove it"
      )
  return sorted(map(int, names))


def checksums(folder: str) -> dict[str, list[int]]:
  """Returns the size and CRC-32 of every file of a checkpoint's contents."""
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


def verify(folder: str) -> None:
  """Checks a checkpoint's files against its list of sizes and checksums.

  Raises:
    ValueError: A file is missing, has changed, or the list is wrong.
  """
  path = os.path.join(folder, CHECKSUMS)
  if not os.path.exists(path):
    raise ValueError(f"{CHECKSUMS} is missing, so it was never completed")
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


def remove(path: str) -> None:
  """Removes a checkpoint; if it is a link, removes only the link.

  The checkpoint is first renamed as a half-written one, so that a killed
  process leaves nothing that looks like a complete checkpoint.
  """
  if os.path.islink(path) or not os.path.isdir(path):
    os.unlink(path)
    return
  doomed = path if TEMPORARY in path else path + TEMPORARY
  os.rename(path, doomed)
  shutil.rmtree(doomed)


def read_metrics(workdir: str, step: int) -> Mapping[str, float]:
  """Returns the metrics of a checkpoint; empty if they cannot be read."""
  try:
    return read_meta(os.path.join(path_of(workdir), str(step)))["metrics"]
  # Without metrics, a damaged checkpoint cannot be the best one.
  except Exception:
    return {}


def read_meta(folder: str) -> dict[str, Any]:
  """Reads the metadata of a checkpoint: all but the state."""
  return read_json(os.path.join(folder, "meta", "metadata"))


def set_aside(workdir: str, step: int) -> None:
  """Moves a checkpoint to `corrupt/`, so that its step can be written again.

  Args:
    workdir: The run's directory.
    step: The step of the checkpoint.

  Raises:
    UserError: `corrupt` is a link.
  """
  corrupt = os.path.join(os.path.abspath(workdir), "corrupt")
  refuse_link(corrupt)
  os.makedirs(corrupt, exist_ok=True)
  taken = len(os.listdir(corrupt))
  source = os.path.join(path_of(workdir), str(step))
  os.rename(source, os.path.join(corrupt, f"{taken}-step-{step}"))


def ranked(
  metrics: Mapping[int, Mapping[str, float]], metric: str, best: str
) -> list[int]:
  """Returns the steps that have a finite value of a metric, the best one first.

  Args:
    metrics: Validation metrics by step; empty for a step without validation.
    metric: The name of the metric.
    best: "min" or "max": which values are best.
  """
  values = {
    step: found[metric]
    for step, found in sorted(metrics.items())
    if isinstance(found.get(metric), int | float)
    and math.isfinite(found[metric])
  }
  return sorted(values, key=lambda step: values[step], reverse=best == "max")


def superfluous(
  metrics: Mapping[int, Mapping[str, float]], metric: str, best: str, keep: int
) -> list[int]:
  """Returns the steps that are neither among the latest nor the best.

  Args:
    metrics: Validation metrics of all checkpoints, by step.
    metric: The metric that chooses the best checkpoint.
    best: "min" or "max": which of its values are best.
    keep: Number of latest checkpoints to keep.
  """
  first = ranked(metrics, metric, best)[:1]
  return [step for step in sorted(metrics)[:-keep] if step not in first]
