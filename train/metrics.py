"""Writes the numbers of a run: a file, a progress bar, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pathlib
import secrets
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import tqdm

from train import files
from train.errors import UserError, shown
from train.streams import log

FILE_NAME = "metrics.jsonl"

# Metrics are computed in float32.
_LARGEST = float(np.finfo(np.float32).max)


# In the file and TensorBoard, but not on the screen: the line would not fit.
_FILE_ONLY = ("param_norm", "update_norm", "tokens", "targets", "step_seconds")


class MetricsWriter:
  """Writes a run's metrics to `workdir/metrics.jsonl` and shows them.

  The file holds one JSON object a line: `{"step": ..., "split": ..., name:
  value, ...}`. A value that is not finite is written as null, which JSON has
  and every reader takes for missing.

  Of training lines "tokens" are the positions of the step's batch that the
  model read, padding included, and "tokens_per_second" counts these; of
  validation lines they are those of the examples. "targets" is the summed
  weight of what was to be predicted, which "loss" (in nats), "bits_per_token"
  and "accuracy" are means over.

  On a terminal the training lines become a progress bar and the others are
  printed above it; elsewhere every line is printed.

  Args:
    workdir: the run's folder; made if it is not there.
    total_steps: the step at which the run will be done.
    tensorboard: whether to write TensorBoard's events too, to `workdir`, if
      `tensorboardX` is installed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    total_steps: int,
    tensorboard: bool = True,
  ):
    self._workdir = pathlib.Path(workdir)
    self._path = self._workdir / FILE_NAME
    self._total_steps = total_steps
    self._tensorboard = tensorboard and _installed("tensorboardX")
    self._purge_step: int | None = None
    self._events: Any = None
    self._bar: Any = None
    self._is_terminal = sys.stderr.isatty()
    # Opened by the first to write: a command that is refused changes nothing.
    self._file: BinaryIO | None = None

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Writes one line of metrics; it is in the file when this returns.

    Args:
      step: updates done.
      split: what the values are of: "train", "validation" or "baseline".
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
    if self._tensorboard:
      self._write_events(step, split, numbers)
    self._show(step, split, numbers)

  def text(self, line: str) -> None:
    """Prints a line, above the progress bar if there is one."""
    if self._bar is None:
      log(line)
    else:
      self._bar.write(line)

  def truncate(self, step: int, *, evaluated: bool = True) -> None:
    """Forgets what was written after `step`; to be called on resuming.

    Lines that are no metrics are dropped too, with a word about them. The file
    is replaced at once, so that it is whole whenever the run is killed.

    Args:
      step: the last step whose lines stay.
      evaluated: whether its validation lines stay too. Otherwise the run
        repeats that validation, and writes them again.
    """
    if self._file is not None:
      self._file.close()
    kept, wrong = _rewrite(self._path, step, evaluated)
    if wrong:
      self.text(f"{self._path}: dropped {wrong} lines that are no metrics")
    if not kept and step > 0:
      self.text(f"{self._path} has no lines up to step {step}: they are lost")
    self._file = self._open()
    self._purge_step = step + 1

  def _open(self) -> BinaryIO:
    """Opens the file at its end.

    A killed run may leave half a line; the next line must not be appended to
    that half.
    """
    self._workdir.mkdir(parents=True, exist_ok=True)
    if not _is_whole(self._path):
      _rewrite(self._path, None)
    return files.open_append(str(self._path))

  def close(self) -> None:
    """Ends the bar and closes the files."""
    if self._file is not None:
      self._file.close()
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    if self._events is not None:
      self._events.close()
      self._events = None

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()

  def _write_events(
    self, step: int, split: str, values: Mapping[str, float]
  ) -> None:
    if self._events is None:
      import tensorboardX

      # A random name, so that nobody can place a link there beforehand.
      suffix = f".{secrets.token_hex(8)}"
      self._events = tensorboardX.SummaryWriter(
        str(self._workdir), purge_step=self._purge_step, filename_suffix=suffix
      )
    for name, value in values.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def _show(self, step: int, split: str, values: Mapping[str, float]) -> None:
    if self._is_terminal and split == "train":
      if self._bar is None:
        # From here on, so that a resumed run's rate is that of its own steps.
        self._bar = tqdm.tqdm(
          total=self._total_steps, initial=step, unit="step", file=sys.stderr
        )
      self._bar.n = step
      # The bar shows the first three values; the file has all.
      self._bar.set_postfix_str(_join(dict(list(values.items())[:3])))
    else:
      self.text(f"step {step}/{self._total_steps}  {split}  {_join(values)}")


class NoWriter:
  """Writes and shows nothing: for processes that others write for."""

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
    The lines in order, without those that are not whole.

  Raises:
    FileNotFoundError: if the run has written none.
    UserError: if a line holds something else than metrics; names the line.
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
  """Yields the lines of a file; what is not UTF-8 becomes U+FFFD."""
  # A pipe of this name would keep us waiting.
  if path.exists() and not path.is_file():
    raise UserError(f"{path} is not a file: remove it")
  with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
    yield from file


def _parse(text: str) -> dict[str, Any] | None:
  """Returns the object of a line; None if the line is not whole."""
  try:
    values = json.loads(text)
  # Brackets in brackets without end are a RecursionError.
  except (ValueError, RecursionError):
    return None
  return values if isinstance(values, dict) and "step" in values else None


def _problem(values: Mapping[str, Any]) -> str | None:
  """Says what of a line is not as it is written, if anything is."""
  for name, value in values.items():
    kind = type(value)
    if name == "step":
      if kind is not int or not 0 <= value < 2**63:
        return f"step is {shown(value)}, but must be a whole number"
    elif name == "split":
      if kind is not str:
        return f"split is {shown(value)}, but must be a string"
    elif kind is float or kind is int:
      # Infinity and NaN, of other writers, are missing numbers like null.
      if abs(value) > _LARGEST and value != math.inf and value != -math.inf:
        return f"{name} is {shown(value)}, more than a float32 can hold"
    elif value is not None:
      return f"{name} is {shown(value)}, but must be a number or null"
  return None


def _is_whole(path: pathlib.Path) -> bool:
  """Says whether a file has one name, and ends with a line break if at all."""
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
  """Drops lines after `step`, if it is given, and those that are no metrics.

  Without `evaluated`, those of the validation at `step` are dropped too.

  Returns:
    How many lines stay, and how many whole ones were no metrics.
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
  # A file with two names may lie outside; what is added must not go there.
  if not is_same or path.stat().st_nlink > 1:
    files.replace(str(path), "".join(kept).encode())
  return len(kept), wrong


def _stays(
  values: Mapping[str, Any], step: int | None, evaluated: bool
) -> bool:
  """Says whether a line is of what was done up to `step`."""
  if step is None or values["step"] < step:
    return True
  repeated = values.get("split") == "validation" and not evaluated
  return values["step"] == step and not repeated


def _installed(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


def _join(values: Mapping[str, float]) -> str:
  return "  ".join(
    f"{name} {value:.4g}"
    for name, value in values.items()
    if name not in _FILE_ONLY
  )
