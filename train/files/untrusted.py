"""Checks the metadata of a checkpoint before they are used.

A checkpoint may come from somebody else, or be damaged in a way that its
checksums do not show. Each check raises a `ValueError` with one line that says
what is wrong; the caller skips the checkpoint as damaged.
"""

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from train import files

# Configs have a few kilobytes, lists of files a few hundred kilobytes.
_LARGEST = 1 << 26
_DEEPEST = 64


def read_json(path: str) -> Any:
  """Reads a JSON file of a run directory.

  Raises:
    ValueError: It is not JSON, or is nested too deeply.
    UserError: It is a link, not a regular file, or too large.
  """
  try:
    document = json.loads(files.read(path, _LARGEST))
  except RecursionError as error:
    raise ValueError(f"{path} is nested too deeply") from error
  check_depth(document)
  return document


def check_depth(document: Any) -> None:
  """Raises a `ValueError` if JSON is nested far deeper than a config."""
  level = [document]
  for _ in range(_DEEPEST):
    level = [
      inner
      for value in level
      if isinstance(value, dict | list)
      for inner in (value.values() if isinstance(value, dict) else value)
    ]
    if not level:
      return
  raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def check_listed(folder: str, listed: Any) -> None:
  """Checks the names in a checkpoint's list of files.

  Args:
    folder: The checkpoint.
    listed: The list that was read: sizes and checksums by name.

  Raises:
    ValueError: It is not such a list, a name leads out of the folder, or the
      folder holds anything but files and folders.
  """
  if not isinstance(listed, dict):
    raise ValueError("its list of files is not a JSON object")
  for name, entry in listed.items():
    numbers = isinstance(entry, list) and [type(x) for x in entry]
    if numbers != [int, int]:
      raise ValueError(f"its list of files is wrong at {name!r}")
    if name.startswith("meta") and entry[0] > _LARGEST:
      raise ValueError(
        f"{name!r} has {entry[0]} bytes, but must have at most {_LARGEST}"
      )
    parts = name.split("/")
    if "\0" in name or not {"", os.curdir, os.pardir}.isdisjoint(parts):
      raise ValueError(f"its list of files names {name!r}, which is outside it")
  _check_plain(folder)


def _check_plain(folder: str) -> None:
  """Raises a `ValueError` for anything in a folder but files and folders."""
  if os.path.islink(folder):
    raise ValueError(f"{folder} is a link")
  for name in os.listdir(folder):
    path = os.path.join(folder, name)
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
      _check_plain(path)
    elif not stat.S_ISREG(mode):
      raise ValueError(f"{path} is a link, a pipe or a device, not a file")


_META: Mapping[str, type] = {
  "step": int,
  "position": int,
  "config": dict,
  "metrics": dict,
  "evaluated": bool,
}


def check_meta(meta: Any, step: int) -> dict[str, Any]:
  """Checks the metadata of a checkpoint.

  Args:
    meta: The metadata that were read.
    step: The step in the checkpoint's name.

  Returns:
    `meta`.

  Raises:
    ValueError: An entry is missing, unknown, of a wrong type, or out of range.
  """
  if not isinstance(meta, dict) or meta.keys() != _META.keys():
    raise ValueError(f"its metadata must have the entries {', '.join(_META)}")
  for name, kind in _META.items():
    # `isinstance(True, int)` holds, so this compares the types.
    if type(meta[name]) is not kind:
      raise ValueError(f"its {name} is not of type {kind.__name__}")
  if meta["step"] != step or meta["position"] < 0:
    raise ValueError(f"it says step {meta['step']} of itself, not {step}")
  for name, value in meta["metrics"].items():
    if type(value) not in (int, float):
      raise ValueError(f"its metric {name!r} is not a number")
  check_depth(meta)
  return meta
