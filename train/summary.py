"""Runs read from disk, grouped by config, and the table of their final values.

Runs whose configs differ only in seeds form one group. The report draws the
mean of a group and gives its final values as mean, least and most.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from train.errors import UserError, one_line
from train.metrics import FILE_NAME, iterate_metrics

BITS = "bits_per_token"
BITS_PER_BYTE = "bits_per_byte"
# Entries of a saved config that are no setting of it.
_BESIDE = ("$source",)
# Final values of the training split; those of the validation are all listed.
_OF_TRAINING = ("tokens_per_second", "model_flops_utilization")
_NOT_LISTED = ("tokens", "targets")
# Most fields in the name of a group; beyond, its directory says more.
MOST_NAMED = 3


class Run:
  """The metrics and the config of one run.

  Attributes:
    path: The run's directory.
    baselines: Scores of simple methods, in bits per byte.
    config: The saved config as a flat dictionary by dotted path; None if the
      directory has no readable `config.json`.
    step: The last step with metrics.
  """

  def __init__(
    self, workdir: str | os.PathLike[str], names: Collection[str] | None = None
  ):
    """Reads a run.

    Args:
      workdir: The run's directory.
      names: The metrics whose curves are kept; None for all.

    Raises:
      UserError: The run is missing, empty, or has lines that are not metrics.
    """
    self.path = pathlib.Path(workdir)
    self.baselines: dict[str, float] = {}
    self.config = _read_config(self.path)
    self.step = 0
    self._names = names
    # Steps and values of every curve.
    self._curves: dict[tuple[str, str], tuple[array, array]] = {}
    self._last: dict[tuple[str, str], float] = {}
    is_empty = True
    try:
      for line in iterate_metrics(self.path):
        is_empty = False
        self._add(line)
    except OSError as error:
      raise UserError(
        f"no run in {str(self.path)!r}: it has no readable {FILE_NAME}"
      ) from error
    if is_empty:
      raise UserError(
        f"nothing to draw for {str(self.path)!r}: its {FILE_NAME} is empty"
      )

  def _add(self, line: dict[str, Any]) -> None:
    """Adds the finite numbers of a line to the curves and the last values."""
    split, step = line.pop("split", "train"), line.pop("step")
    self.step = max(self.step, step)
    finite = {name: x for name, x in line.items() if math.isfinite(x)}
    if split == "baseline":
      self.baselines |= finite
      return
    if BITS not in line and "loss" in finite:
      finite[BITS] = finite["loss"] / math.log(2)
    for name, value in finite.items():
      self._last[split, name] = value
      if self._names is None or name in self._names:
        if (split, name) not in self._curves:
          self._curves[split, name] = array("d"), array("d")
        steps, values = self._curves[split, name]
        steps.append(step)
        values.append(value)

  def curve(
    self, split: str, metric: str, against: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y [n] of the finite points; x in steps or tokens."""
    columns = self._curves.get((split, metric), (array("d"), array("d")))
    steps, values = map(np.array, columns)
    return (steps if against == "step" else self._tokens(steps)), values

  def _tokens(self, steps: np.ndarray) -> np.ndarray:
    """Returns tokens seen at some steps: "tokens_seen" or summed "tokens".

    Interpolates linearly, since only some steps are written.
    """
    known, seen = self.curve("train", "tokens_seen", "step")
    if not len(known):
      known, each = self.curve("train", "tokens", "step")
      seen = np.cumsum(each * np.diff(known, prepend=0))
    if not len(known):
      return np.full_like(steps, math.nan)
    return np.interp(steps, [0, *known], [0, *seen])

  def has(self, metric: str) -> bool:
    """Whether any line has a metric."""
    return any(name == metric for _, name in self._last)

  def final(self) -> dict[str, dict[str, float]]:
    """Returns the last finite values to list, by split and name.

    A run without validation lists its training loss instead.
    """
    found: dict[str, dict[str, float]] = {"validation": {}, "train": {}}
    validated = any(split == "validation" for split, _ in self._last)
    for (split, name), value in self._last.items():
      listed = split == "validation" and name not in _NOT_LISTED
      if split == "train":
        is_loss = not validated and name in ("loss", BITS, BITS_PER_BYTE)
        listed = name in _OF_TRAINING or is_loss
      if listed:
        found.setdefault(split, {})[name] = value
    return found


def _read_config(folder: pathlib.Path) -> dict[str, Any] | None:
  path = folder / "config.json"
  try:
    # Opening a pipe would wait for a writer.
    if not path.is_file():
      return None
    document = json.loads(path.read_bytes())
    flat: dict[str, Any] = {}
    _flatten(document, "", flat)
  # Deeply nested brackets raise a RecursionError.
  except (OSError, ValueError, RecursionError):
    return None
  return {key: x for key, x in flat.items() if key not in _BESIDE}


def _flatten(value: Any, path: str, flat: dict[str, Any]) -> None:
  """Adds the leaves of JSON to a dictionary, by dotted path."""
  if isinstance(value, dict) and value:
    for key, inner in value.items():
      _flatten(inner, f"{path}.{key}" if path else key, flat)
  elif isinstance(value, list) and value:
    for number, inner in enumerate(value):
      _flatten(inner, f"{path}.{number}", flat)
  else:
    flat[path] = json.dumps(value) if isinstance(value, dict | list) else value


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
    # Between two runs of which one ends before the other begins, none counts.
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
  """The name of a run's folder; of the folder around several seeds."""
  folders = [run.path.resolve() for run in group.runs]
  is_replicas = all(folder.name.startswith("seed=") for folder in folders)
  return folders[0].parent.name if is_replicas else folders[0].name


def final_values(
  workdirs: Sequence[str | os.PathLike[str]],
) -> list[dict[str, Any]]:
  """Returns the final values of runs as JSON, one row per group.

  Args:
    workdirs: The runs' directories.

  Returns:
    Rows with "name", "settings" (the fields in which the groups differ), "runs"
    (their directories), "steps" (the last step of each), "baselines" (in bits
    per byte), and "metrics": by split and name the "mean", "min", "max" and
    "values" of the last finite values of the runs.

  Raises:
    UserError: See `Run`.
  """
  runs = [Run(workdir, ()) for workdir in workdirs]
  return [group.row() for group in group_runs(runs)]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns final values as a table in Markdown.

  Args:
    rows: Of `final_values`. A cell of several runs is their mean, with the
      least and the most in brackets.
  """
  columns = list(
    {
      (split, name): None
      for split in ("validation", "train")
      for row in rows
      for name in row["metrics"].get(split, {})
    }
  )
  titles = [
    name if split == "validation" or name in _OF_TRAINING else f"train {name}"
    for split, name in columns
  ]
  lines = [["run", "seeds", "step", *titles]]
  for row in rows:
    steps = sorted(set(row["steps"]))
    values = [row["metrics"].get(split, {}).get(x) for split, x in columns]
    cells = [row["name"], str(len(row["runs"])), " to ".join(map(str, steps))]
    if len(steps) > 2:
      cells[2] = f"{steps[0]} to {steps[-1]}"
    lines.append([*cells, *map(_cell, values)])
  names = [name for _, name in columns]
  bits = next((x for x in (BITS_PER_BYTE, BITS) if x in names), None)
  scores = {(k, v): None for row in rows for k, v in row["baselines"].items()}
  for name, value in sorted(scores) if bits else ():
    own = [f"{value:.4g}" if x == bits else "" for x in names]
    lines.append([name, "", "", *own])
  lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
  return "".join(map(markdown_row, lines))


def markdown_row(cells: Sequence[str]) -> str:
  """Returns a row of a table in Markdown, with its line break."""
  escaped = [one_line(cell, 500).replace("|", r"\|") for cell in cells]
  return f"| {' | '.join(escaped)} |\n"


def with_range(mean: float, low: float, high: float, count: int) -> str:
  """Returns the text of a mean; that of several runs has their range."""
  text = f"{mean:.4g}"
  return text if count == 1 else f"{text} ({low:.4g} to {high:.4g})"


def _cell(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return ""
  three = value["mean"], value["min"], value["max"]
  return with_range(*three, len(value["values"]))
