"""Writes the numbers of a run: a file, a progress bar, TensorBoard, a table."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

FILE_NAME = "metrics.jsonl"

# A table of more parameters than this shows repeated layers once.
_LONG = 40
_WIDTH = 100


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
    self._workdir.mkdir(parents=True, exist_ok=True)
    self._path = self._workdir / FILE_NAME
    self._total_steps = total_steps
    self._tensorboard = tensorboard and _installed("tensorboardX")
    self._purge_step: int | None = None
    self._events: Any = None
    self._bar: Any = None
    self._is_terminal = sys.stderr.isatty()
    # Half a line may be left of a run that was killed; what is written next
    # must not be joined to it.
    _rewrite(self._path, None)
    self._file = self._path.open("a", encoding="utf-8")

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
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    if self._tensorboard:
      self._write_events(step, split, numbers)
    self._show(step, split, numbers)

  def text(self, line: str) -> None:
    """Prints a line, above the progress bar if there is one."""
    if self._bar is None:
      print(line, flush=True)
    else:
      self._bar.write(line)

  def truncate(self, step: int, *, evaluated: bool = True) -> None:
    """Forgets what was written after `step`; to be called on resuming.

    Lines that cannot be read are dropped too. The file is replaced at once, so
    that it is whole whenever the run is killed.

    Args:
      step: the last step whose lines stay.
      evaluated: whether its validation lines stay too. Otherwise the run
        repeats that validation, and writes them again.
    """
    self._file.close()
    _rewrite(self._path, step, evaluated)
    self._file = self._path.open("a", encoding="utf-8")
    self._purge_step = step + 1

  def close(self) -> None:
    """Ends the bar and closes the files."""
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

      self._events = tensorboardX.SummaryWriter(
        str(self._workdir), purge_step=self._purge_step
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
      # Of a training line only what says how it goes; the file has the rest.
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
  """Reads the lines of a run's metrics; null becomes NaN.

  Args:
    workdir: the run's folder.

  Returns:
    The lines in order, without those that are not whole.

  Raises:
    FileNotFoundError: if the run has written none.
  """
  path = pathlib.Path(workdir, FILE_NAME)
  lines = _lines(path.read_text(encoding="utf-8"))
  return [
    {name: math.nan if value is None else value for name, value in line.items()}
    for _, line in lines
  ]


def _lines(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the whole lines of a metrics file, as text and as read."""
  for line in text.splitlines():
    try:
      values = json.loads(line)
    except ValueError:
      continue
    if isinstance(values, dict) and isinstance(values.get("step"), int):
      yield line, values


def _rewrite(
  path: pathlib.Path, step: int | None, evaluated: bool = True
) -> None:
  """Drops lines after `step`, if it is given, and those that are not whole.

  Without `evaluated`, those of the validation at `step` are dropped too.
  """
  if not path.exists():
    return
  before = path.read_text(encoding="utf-8", errors="replace")
  after = "".join(
    line + "\n"
    for line, values in _lines(before)
    if step is None
    or values["step"] < step
    or (
      values["step"] == step
      and (evaluated or values.get("split") != "validation")
    )
  )
  if after != before:
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8") as file:
      file.write(after)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)


def _installed(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


def _join(values: Mapping[str, float]) -> str:
  return "  ".join(
    f"{name} {value:.4g}"
    for name, value in values.items()
    if name not in _FILE_ONLY
  )


class _Row(NamedTuple):
  path: str
  shape: str
  dtype: str
  size: int


def parameter_table(params: Any) -> str:
  """Lists the parameters of a model, at most 100 columns wide.

  In a model of many parameters, those that differ only in the numbers of their
  path (the layers of a stack) are one row, with `*` for the numbers.

  Args:
    params: a pytree of arrays, or of anything with a shape and a dtype.

  Returns:
    A table of path, shape, dtype and count, and the totals below it.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  rows = [
    _Row(
      jax.tree_util.keystr(path, simple=True, separator="/"),
      " x ".join(map(str, leaf.shape)) or "scalar",
      np.dtype(leaf.dtype).name,
      math.prod(leaf.shape),
    )
    for path, leaf in leaves
  ]
  size = sum(
    row.size * leaf.dtype.itemsize
    for row, (_, leaf) in zip(rows, leaves, strict=True)
  )
  total = sum(row.size for row in rows)
  if len(rows) > _LONG:
    rows = _group(rows)
  head = ("parameter", "shape", "dtype", "count")
  cells = [head, *((*row[:3], f"{row.size:,}") for row in rows)]
  shape, dtype, count = (max(len(c[i]) for c in cells) for i in (1, 2, 3))
  room = _WIDTH - shape - dtype - count - 6
  width = min(max(len(cell[0]) for cell in cells), room)
  lines = [
    f"{_shorten(a, width):{width}}  {b:{shape}}  {c:{dtype}}  {d:>{count}}"
    for a, b, c, d in cells
  ]
  rule = "-" * len(lines[0])
  sums = f"{total:,} parameters in {len(leaves)} arrays, {size / 1e6:,.2f} MB"
  return "\n".join([lines[0], rule, *lines[1:], rule, sums])


def _group(rows: list[_Row]) -> list[_Row]:
  """Joins rows that differ only in the numbers of their paths."""
  groups: dict[tuple[str, str, str], list[_Row]] = {}
  for row in rows:
    pattern = re.sub(r"\d+", "*", row.path)
    groups.setdefault((pattern, row.shape, row.dtype), []).append(row)
  return [
    group[0]
    if len(group) == 1
    else _Row(
      f"{len(group)} x {pattern}", shape, dtype, sum(row.size for row in group)
    )
    for (pattern, shape, dtype), group in groups.items()
  ]


def _shorten(text: str, width: int) -> str:
  if len(text) <= width:
    return text
  # The end of a path says more than its middle.
  tail = (width - 1) * 2 // 3
  return text[: width - 1 - tail] + "…" + text[-tail:]
