"""Runs grouped by config, and the names of the groups.

Runs whose configs differ only in seeds form one group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.summary.runs import Run

# The most fields in the name of a group; with more, its directory names it.
MOST_NAMED = 3


def _is_seed(path: str) -> bool:
  return path.rpartition(".")[2] == "seed"


class Group:
  """Runs that differ only in their seeds.

  Attributes:
    runs: At least one run.
    settings: The fields in which the groups of a report differ, with this
      group's values; empty for runs that are not told apart by their configs.
    name: What tells the group from the others of a report.
  """

  def __init__(self, runs: Sequence[Run]):
    self.runs = list(runs)
    self.settings: dict[str, Any] = {}
    self.name = ""

  def curve(
    self, split: str, metric: str, against: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n] and least, mean and most over the runs [3, n].

    A run counts where it has values: between its first and its last one, with
    linear interpolation if the runs have written other steps.
    """
    curves = [run.curve(split, metric, against) for run in self.runs]
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
      return np.zeros(0), np.zeros((3, 0))
    if len(curves) == 1:
      x, y = curves[0]
      return x, np.stack([y] * 3)
    xs = np.unique(np.concatenate([x for x, _ in curves]))
    ys = np.array([np.interp(xs, x, y, math.nan, math.nan) for x, y in curves])
    # Between the end of one run and the start of another, no run has values.
    known = np.isfinite(ys).any(axis=0)
    xs, ys = xs[known], ys[:, known]
    parts = np.nanmin(ys, 0), np.nanmean(ys, 0), np.nanmax(ys, 0)
    return xs, np.stack(parts)

  def row(self) -> dict[str, Any]:
    """Returns the group's final values as JSON: see `final_values`."""
    finals = [run.final() for run in self.runs]
    metrics: dict[str, dict[str, Any]] = {}
    for split in {split: None for final in finals for split in final}:
      names = {name: None for final in finals for name in final.get(split, {})}
      for name in names:
        values = [f[split][name] for f in finals if name in f.get(split, {})]
        metrics.setdefault(split, {})[name] = {
          "mean": float(np.mean(values)),
          "min": min(values),
          "max": max(values),
          "values": values,
        }
    baselines: dict[str, float] = {}
    for run in self.runs:
      baselines |= run.baselines
    return {
      "name": self.name,
      "settings": self.settings,
      "runs": [str(run.path) for run in self.runs],
      "steps": [run.step for run in self.runs],
      "metrics": metrics,
      "baselines": baselines,
    }


def group_runs(runs: Sequence[Run]) -> list[Group]:
  """Groups runs that differ only in their seeds, in order of appearance.

  Runs without a saved config are groups of their own. A group is named by its
  values of the fields in which the groups differ, such as "width 64"; without
  such fields, or with more than three, by its directory.

  Args:
    runs: The runs.
  """
  groups: dict[Any, list[Run]] = {}
  for number, run in enumerate(runs):
    key: Any = number
    if run.config is not None:
      key = json.dumps(_identity(run.config), sort_keys=True)
    groups.setdefault(key, []).append(run)
  found = [Group(members) for members in groups.values()]
  _name(found)
  return found


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what runs of one group have in common."""
  kept = {key: value for key, value in config.items() if not _is_seed(key)}
  # Other seeds of the data give other data.
  if any(_is_seed(key) and key.startswith("data.") for key in config):
    kept = {k: v for k, v in kept.items() if not k.startswith("$data.")}
  return kept


def _name(groups: Sequence[Group]) -> None:
  """Sets the settings and names of the groups of a report."""
  configs = [group.runs[0].config for group in groups]
  known = [_identity(config) for config in configs if config is not None]
  if len(known) == len(groups) > 1:
    swept = _swept(known)
    short = short_names(swept)
    for group, config in zip(groups, known, strict=True):
      group.settings = {key: config.get(key) for key in swept}
      if len(swept) <= MOST_NAMED:
        group.name = ", ".join(
          f"{short[key]} {_word(value)}"
          for key, value in group.settings.items()
        )
  names = [group.name for group in groups]
  if not all(names) or len(set(names)) < len(names):
    _name_by_folder(groups)


def _swept(configs: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the fields in which configs differ, in their order."""
  fields = {key: None for config in configs for key in config}
  missing = object()
  return [
    key
    for key in fields
    if not key.startswith("$")
    and len({repr(config.get(key, missing)) for config in configs}) > 1
  ]


def short_names(paths: Sequence[str]) -> dict[str, str]:
  """Returns the last parts of dotted paths, as many as tell them apart.

  A number keeps the name before it: `model.mixers.0` becomes `mixers.0`.
  """
  short = {}
  for path in paths:
    parts = path.split(".")
    for size in range(1, len(parts) + 1):
      short[path] = ".".join(parts[-size:])
      end = f".{short[path]}"
      is_clear = sum(f".{other}".endswith(end) for other in paths) == 1
      if is_clear and not short[path][:1].isdigit():
        break
  return short


def _word(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:g}"
  # A class is saved as "package.module:Name".
  return str(value).rpartition(":")[2] if isinstance(value, str) else str(value)


def _name_by_folder(groups: Sequence[Group]) -> None:
  names = [_folder(group) for group in groups]
  if len(set(names)) < len(names):
    names = [str(group.runs[0].path) for group in groups]
  for group, name in zip(groups, names, strict=True):
    group.name = name


def _folder(group: Group) -> str:
  """The name of a run's folder, or of the folder around several seeds."""
  folders = [run.path.resolve() for run in group.runs]
  is_replicas = all(folder.name.startswith("seed=") for folder in folders)
  return folders[0].parent.name if is_replicas else folders[0].name
