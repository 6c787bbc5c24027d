"""The runs in a directory: itself, or its replicas."""

import os
import re
from collections.abc import Iterator

# As `train.metrics.FILE_NAME`, but without importing NumPy and a progress bar.
_METRICS = "metrics.jsonl"


def runs_in(folder: str) -> list[str]:
  """Returns the runs that a directory stands for.

  Args:
    folder: The directory of one run, or one with a folder per run, such as that
      of replicas or of a sweep.

  Returns:
    The directory itself if it has metrics or no folder in it has; else its
    folders with metrics, in the order of the numbers in their names.
  """
  if os.path.lexists(os.path.join(folder, _METRICS)):
    return [folder]
  try:
    names = sorted(os.listdir(folder), key=lambda name: [*_parts(name)])
  except OSError:
    return [folder]
  inner = [os.path.join(folder, name) for name in names]
  found = [x for x in inner if os.path.lexists(os.path.join(x, _METRICS))]
  return found or [folder]


def _parts(name: str) -> Iterator[tuple[float, str]]:
  """Splits a name, so that seed=10 follows seed=9."""
  for part in re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", name):
    try:
      yield float(part), ""
    except ValueError:
      yield -1.0, part
