"""One run, read from its directory."""

from __future__ import annotations

import json
import math
import os
import pathlib
from array import array
from collections.abc import Collection
from typing import Any

import numpy as np

from train.errors import UserError
from train.metrics import FILE_NAME, iterate_metrics

BITS = "bits_per_token"
BITS_PER_BYTE = "bits_per_byte"
# Of an episode of reinforcement learning.
RETURN = "return"

# Entries of a saved config that are no setting of it.
BESIDE = ("$source",)

# Final values of the training split; those of the validation are all listed.
OF_TRAINING = ("tokens_per_second", "model_flops_utilization")
NOT_LISTED = ("tokens", "targets")


class Run:
  """The metrics and the config of one run.

  Attributes:
    path: The run's directory.
    baselines: Scores of simple methods, in bits per byte; returns of a run of
      reinforcement learning.
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
      names: The metrics whose curves are kept, beside those of validations;
        None for all.

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
    # Tokens per byte of the validation; None until a line has it.
    self._tokens_per_byte: float | None = None
    self._has_bits = False
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
    if not self._has_bits:
      # The loss is not one per token.
      for found in (self._curves, self._last):
        for key in [key for key in found if key[1] == BITS]:
          del found[key]

  def _add(self, line: dict[str, Any]) -> None:
    """Adds the finite numbers of a line to the curves and the last values."""
    split, step = line.pop("split", "train"), line.pop("step")
    self.step = max(self.step, step)
    finite = {name: x for name, x in line.items() if math.isfinite(x)}
    if split == "baseline":
      self.baselines |= finite
      return
    self._has_bits |= BITS in line
    if BITS not in line and "loss" in finite:
      finite[BITS] = finite["loss"] / math.log(2)
    if finite.get(BITS) and BITS_PER_BYTE in finite:
      self._tokens_per_byte = finite[BITS_PER_BYTE] / finite[BITS]
    elif BITS in finite and self._tokens_per_byte is not None:
      # A training step does not count bytes.
      finite[BITS_PER_BYTE] = finite[BITS] * self._tokens_per_byte
    for name, value in finite.items():
      self._last[split, name] = value
      if (
        self._names is None
        or name in self._names
        or split == "validation"
        or ("validation", name) in self._curves
      ):
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

  def validated(self) -> list[str]:
    """The names of the metrics of validations, without counts."""
    names = (name for split, name in self._last if split == "validation")
    return [name for name in names if name not in NOT_LISTED]

  def has(self, metric: str) -> bool:
    """Whether any line has a metric."""
    return any(name == metric for _, name in self._last)

  def final(self) -> dict[str, dict[str, float]]:
    """Returns the last finite values to list, by split and name.

    A run without validation lists its training loss instead. The split "model"
    has the sizes of the model and the seconds that its step was compiled in.
    """
    found: dict[str, dict[str, float]] = {"validation": {}, "train": {}}
    validated = any(split == "validation" for split, _ in self._last)
    for (split, name), value in self._last.items():
      listed = split == "validation" and name not in NOT_LISTED
      if split == "train":
        is_loss = not validated and name in ("loss", BITS, BITS_PER_BYTE)
        listed = name in OF_TRAINING or is_loss
      if name == "compile_seconds":
        split, listed = "model", True
      if listed or split == "model":
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
  return {key: x for key, x in flat.items() if key not in BESIDE}


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
