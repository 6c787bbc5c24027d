"""Writes a run's metrics to a file, a progress bar and trackers."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import tqdm

from train import files
from train.errors import UserError, shown
from train.streams import log
from train.trackers import Opener, Tracker

FILE_NAME = "metrics.jsonl"

# Metrics are computed in float32.
_LARGEST = float(np.finfo(np.float32).max)


# Written to the file and trackers, but not shown: the line would not fit.
_FILE_ONLY = ("param_norm", "update_norm", "tokens", "targets", "step_seconds")


class MetricsWriter:
  """Writes a run's metrics to `workdir/metrics.jsonl` and shows them.

  The file has one JSON object per line: `{"step": ..., "split": ..., name:
  value, ...}`. Values that are not finite are written as null, since JSON has
  no such numbers.

  In training lines, "tokens" is the number of tokens that the model read in the
  step's batch, padding included, and "tokens_per_second" counts the same
  tokens. In validation lines, "tokens" counts the tokens of the examples.
  "targets" is the summed weight of all targets; "loss" (in nats),
  "bits_per_token" and "accuracy" are means with these weights. The first
  training line has "compile_seconds". The line of the split "model", at step 0,
  has "parameters", their number, and "state_bytes" of one sequence.

  On a terminal, training lines become a progress bar and other lines are
  printed above it. Otherwise every line is printed.

  Args:
    workdir: the run's folder; created if it is missing.
    total_steps: the last step of the run.
    trackers: functions that open the trackers, which also get the metrics: see
      `train.trackers`.
    name: the start of the printed lines, which tells several runs apart.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    total_steps: int,
    trackers: Sequence[Opener] = (),
    name: str = "",
  ):
    self._name = name
    self._workdir = pathlib.Path(workdir)
    self._path = self._workdir / FILE_NAME
    self._total_steps = total_steps
    self._openers = trackers
    self._trackers: list[Tracker] | None = None
    self._bar: Any = None
    self._is_terminal = sys.stderr.isatty()
    # The first write opens the file, so a refused command changes nothing.
    self._file: BinaryIO | None = None

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Writes one line of metrics and flushes the file.

    Args:
      step: number of updates done.
      split: "train", "validation", "baseline" or "model".
      values: numbers by name.
    """
    numbers = {name: float(value) for name, value in values.items()}
    finite = {
      name: value if math.isfinite(value) else None
      for name, value in numbers.items()
    }
    line = {"step": int(step), "split": split, **finite}
    if self._file is None:
      self._file = self._open()
    self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
    self._file.flush()
    for tracker in self._open_trackers(step):
      tracker.write(step, split, numbers)
    self._show(step, split, numbers)

  def text(self, line: str) -> None:
    """Prints a line, above the progress bar if there is one."""
    if self._name:
      line = f"{self._name}  {line}"
    if self._bar is None:
      log(line)
    else:
      self._bar.write(line)

  def truncate(self, step: int, *, evaluated: bool = True) -> None:
    """Removes the lines after `step`; call it when a run resumes.

    Also removes lines that are not metrics, and prints how many. The file is
    replaced atomically, so it is complete even if the run is killed.

    Args:
      step: the last step whose lines stay.
      evaluated: whether the validation lines of `step` stay. If false, the run
        repeats that validation and writes these lines again.
    """
    if self._file is not None:
      self._file.close()
    kept, wrong = _rewrite(self._path, step, evaluated)
    if wrong:
      self.text(f"{self._path}: dropped {wrong} lines that are not metrics")
    if not kept and step > 0:
      self.text(f"{self._path} has no lines up to step {step}: they are lost")
    self._file = self._open()
    # Trackers drop the whole step of a validation that is repeated, so they get
    # the other lines of that step once more.
    first = step + 1 if evaluated and step >= 0 else step
    opened = self._open_trackers(first)
    if opened and first == step:
      _repeat(self._workdir, step, opened)

  def _open(self) -> BinaryIO:
    """Opens the file for appending.

    A killed run may leave half a line; it is removed first, so that the next
    line is not appended to it.
    """
    self._workdir.mkdir(parents=True, exist_ok=True)
    if not _is_whole(self._path):
      _rewrite(self._path, None)
    return files.open_append(str(self._path))

  def close(self) -> None:
    """Closes the progress bar and the files."""
    if self._file is not None:
      self._file.close()
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    opened, self._trackers = self._trackers or [], None
    for tracker in opened:
      tracker.close()

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()

  def _open_trackers(self, first: int) -> list[Tracker]:
    """Opens the trackers before the first line, which has step `first`."""
    if self._trackers is None:
      self._trackers = [opener(first) for opener in self._openers]
    return self._trackers

  def _show(self, step: int, split: str, values: Mapping[str, float]) -> None:
    if self._is_terminal and split == "train":
      if self._bar is None:
        # `initial` makes a resumed run show the rate of its own steps.
        self._bar = tqdm.tqdm(
          desc=self._name or None,
          total=self._total_steps,
          initial=step,
          unit="step",
          file=sys.stderr,
        )
      self._bar.n = step
      # The bar shows the first three values; the file has all.
      self._bar.set_postfix_str(_join(dict(list(values.items())[:3])))
    else:
      self.text(f"step {step}/{self._total_steps}  {split}  {_join(values)}")


class NoWriter:
  """Writes and shows nothing: for all processes except the first."""

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Does nothing."""

  def text(self, line: str) -> None:
    """Does nothing."""

  def truncate(self, step: int, *, evaluated: bool = True) -> None:
    """Does nothing."""

  def __enter__(self) -> NoWriter:
    return self

  def __exit__(self, *error: object) -> None:
    pass


def read_metrics(
  workdir: str | os.PathLike[str],
) -> list[dict[str, Any]]:
  """Reads all lines of a run's metrics: see `iterate_metrics`."""
  return list(iterate_metrics(workdir))


def iterate_metrics(
  workdir: str | os.PathLike[str],
) -> Iterator[dict[str, Any]]:
  """Reads a run's metrics line by line; null becomes NaN.

  Args:
    workdir: the run's folder.

  Yields:
    The lines in order, without incomplete ones.

  Raises:
    FileNotFoundError: if the run has no metrics file.
    UserError: if a line is not metrics; the error names the line.
  """
  path = pathlib.Path(workdir, FILE_NAME)
  for number, text in enumerate(_texts(path), 1):
    values = _parse(text)
    if values is None:
      continue
    problem = _problem(values)
    if problem is not None:
      raise UserError(f"{path}, line {number}: {problem}")
    for name, value in values.items():
      if value is None:
        values[name] = math.nan
    yield values


def _texts(path: pathlib.Path) -> Iterator[str]:
  """Yields the lines of a file; bytes that are not UTF-8 become U+FFFD."""
  # Opening a pipe would wait for a writer.
  if path.exists() and not path.is_file():
    raise UserError(f"{path} is not a file: remove it")
  with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
    yield from file


def _parse(text: str) -> dict[str, Any] | None:
  """Returns the JSON object of a line; None if the line is incomplete."""
  try:
    values = json.loads(text)
  # Deeply nested brackets raise a RecursionError.
  except (ValueError, RecursionError):
    return None
  return values if isinstance(values, dict) and "step" in values else None


def _problem(values: Mapping[str, Any]) -> str | None:
  """Returns what is wrong with a line of metrics; None if nothing is."""
  for name, value in values.items():
    kind = type(value)
    if name == "step":
      if kind is not int or not 0 <= value < 2**63:
        return f"step is {shown(value)}, but must be a whole number"
    elif name == "split":
      if kind is not str:
        return f"split is {shown(value)}, but must be a string"
    elif kind is float or kind is int:
      # Other writers may write Infinity and NaN; these count as missing.
      if abs(value) > _LARGEST and value != math.inf and value != -math.inf:
        return f"{name} is {shown(value)}, more than a float32 can hold"
    elif value is not None:
      return f"{name} is {shown(value)}, but must be a number or null"
  return None


def _is_whole(path: pathlib.Path) -> bool:
  """Whether a file is missing, or has one name and no incomplete last line."""
  if not path.is_file():
    return True
  if path.stat().st_nlink > 1:
    return False
  if not path.stat().st_size:
    return True
  with path.open("rb") as file:
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _rewrite(
  path: pathlib.Path, step: int | None, evaluated: bool = True
) -> tuple[int, int]:
  """Drops lines that are not metrics, and lines after `step` if it is given.

  Without `evaluated`, drops the validation lines of `step` too.

  Returns:
    The number of lines that stay, and of complete lines that are not metrics.
  """
  files.refuse_link(str(path))
  if not path.exists():
    return 0, 0
  kept: list[str] = []
  wrong, is_same = 0, True
  for text in _texts(path):
    values = _parse(text)
    is_metrics = values is not None and _problem(values) is None
    if is_metrics and values and _stays(values, step, evaluated):
      kept.append(text if text.endswith("\n") else text + "\n")
      is_same &= kept[-1] is text
    else:
      is_same = False
      wrong += values is not None and not is_metrics
  # A second name of the file may be outside the run directory, and we must not
  # append to it there.
  if not is_same or path.stat().st_nlink > 1:
    files.replace(str(path), "".join(kept).encode())
  return len(kept), wrong


def _stays(
  values: Mapping[str, Any], step: int | None, evaluated: bool
) -> bool:
  """Whether a line belongs to the run up to `step`."""
  if step is None or values["step"] < step:
    return True
  repeated = values.get("split") == "validation" and not evaluated
  return values["step"] == step and not repeated


def _repeat(
  workdir: pathlib.Path, step: int, trackers: Sequence[Tracker]
) -> None:
  """Writes the lines of the file that have this step to trackers."""
  for line in iterate_metrics(workdir):
    if line["step"] == step:
      values = {k: v for k, v in line.items() if k not in ("step", "split")}
      for tracker in trackers:
        tracker.write(step, line["split"], values)


def _join(values: Mapping[str, float]) -> str:
  return "  ".join(
    f"{name} {value:.4g}"
    for name, value in values.items()
    if name not in _FILE_ONLY
  )
