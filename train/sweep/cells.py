"""The cells of a sweep: their values, their configs and their folders."""

import collections
import dataclasses
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from train.config import Config, command_line, serialize
from train.config.start import resolved
from train.errors import UserError, one_line
from train.files import paths
from train.summary import short_names

_OVER = "--over."
# Most runs in one sweep, and most characters in the name of a folder.
MOST_RUNS = 10_000
_LONGEST = 120


@dataclasses.dataclass(frozen=True)
class Cell:
  """One combination of the values that a sweep varies.

  Attributes:
    values: The text of each value by the key of its field, such as
      `{"model.width": "64"}`.
    words: The same as flags of `python -m train`.
  """

  values: Mapping[str, str]
  words: tuple[str, ...]

  @property
  def label(self) -> str:
    """All values in one line."""
    return ", ".join(f"{key}={value}" for key, value in self.values.items())


# Two runs are never equal, and a config has no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One seed of a cell.

  Attributes:
    cell: The cell.
    name: Its folder in the folder of the sweep.
    words: The flags of `python -m train` that make its config.
    config: That config.
  """

  cell: Cell
  name: str
  words: tuple[str, ...]
  config: Config

  @property
  def steps(self) -> int:
    """Steps of the run."""
    return self.config.steps

  @property
  def metric(self) -> str:
    """The metric that chooses its best checkpoint."""
    return self.config.best_metric

  @property
  def document(self) -> Any:
    """The config as JSON."""
    return json.loads(json.dumps(serialize.to_json(self.config)))


def split(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
  """Separates `--over.KEY VALUE ...` from all other words.

  Args:
    argv: The arguments.

  Returns:
    The values by key, and the other words.

  Raises:
    UserError: A key has no value, or is given twice.
  """
  axes: dict[str, list[str]] = {}
  rest: list[str] = []
  values = rest
  for word in argv:
    if word.startswith(_OVER):
      key, equals, first = word.removeprefix(_OVER).partition("=")
      key = key.replace("-", "_")
      if key in axes:
        raise UserError(
          f"{one_line(_flag(key), 200)} is given twice: write all its values"
          " after one"
        )
      values = axes[key] = [first] if equals else []
    elif word.startswith("--") or word == "-h":
      values = rest
      rest.append(word)
    else:
      values.append(word)
  for key, found in axes.items():
    if not found:
      raise UserError(f"{one_line(_flag(key), 200)} needs one value or more")
  return axes, rest


def _flag(key: str) -> str:
  return _OVER + key.replace("_", "-")


def read_file(path: str) -> list[Cell]:
  """Reads a file with the flags of one cell per line; `#` starts a comment.

  Args:
    path: The file, as the user named it.

  Raises:
    UserError: The file cannot be read, holds no cell, or a line is wrong.
  """
  path = paths.local("--cells", path)
  try:
    with open(path, encoding="utf-8") as file:
      lines = file.read().splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read --cells={path}: {one_line(error)}") from error
  cells = []
  for number, line in enumerate(lines, 1):
    try:
      words = shlex.split(line, comments=True)
      if words:
        cells.append(Cell(_values(words), tuple(words)))
    except ValueError as error:
      raise UserError(f"{path}, line {number}: {one_line(error)}") from error
  if not cells:
    raise UserError(f"--cells={path} has no lines with flags")
  return cells


def _values(words: Sequence[str]) -> dict[str, str]:
  """The text of each value of a line of flags."""
  found: dict[str, list[str]] = {}
  texts: list[str] | None = None
  for word in words:
    if word.startswith("--"):
      key, equals, first = word[2:].partition("=")
      texts = found[key.replace("-", "_")] = [first] if equals else []
    elif texts is None:
      raise ValueError(f"{word!r} must come after a flag such as --model.width")
    else:
      texts.append(word)
  # A flag without a value switches something on.
  return {key: ",".join(map(_tidy, t)) or "True" for key, t in found.items()}


def _tidy(text: str) -> str:
  """One spelling per number, so that 1e-3 and 0.001 are the same cell."""
  try:
    number = float(text)
  except ValueError:
    return text
  return text if re.fullmatch(r"[+-]?\d+", text) else repr(number)


def grid(
  axes: Mapping[str, Sequence[str]], listed: Sequence[Cell]
) -> list[Cell]:
  """Returns each listed cell with each combination of the values.

  Args:
    axes: The values by key.
    listed: The cells of a file; none for the grid alone.

  Raises:
    UserError: The file and the grid set the same field.
  """
  for cell in listed:
    if both := cell.values.keys() & axes.keys():
      raise UserError(f"{_flag(min(both))} is also set by a line of --cells")
  return [
    Cell(
      {**one.values, **dict(zip(axes, map(_tidy, values), strict=True))},
      (
        *one.words,
        *(
          f"--{key.replace('_', '-')}={value}"
          for key, value in zip(axes, values, strict=True)
        ),
      ),
    )
    for one in (listed or [Cell({}, ())])
    for values in itertools.product(*axes.values())
  ]


def runs(config: Config, cells: Sequence[Cell], replicas: int) -> list[Run]:
  """Returns the runs of a sweep: all cells with one seed, then the next seed.

  Args:
    config: The config with the values that all cells share.
    cells: The cells.
    replicas: Seeds per cell: `config.seed`, and those that follow it.

  Raises:
    UserError: A value is wrong, or two runs are the same.
  """
  if len(cells) * replicas > MOST_RUNS:
    raise UserError(
      f"the sweep has {len(cells) * replicas} runs, but may have {MOST_RUNS}:"
      " give fewer values"
    )
  if replicas > 1 and any("seed" in cell.values for cell in cells):
    raise UserError("--replicas sets the seeds, so do not sweep over seed too")
  configs = []
  for cell in cells:
    try:
      configs.append(resolved(command_line.override(config, cell.words)))
    except UserError as error:
      label = one_line(cell.label, 200)
      raise UserError(f"cell {label}: {one_line(error)}") from error
  names = _names(cells)
  found = []
  for replica in range(replicas):
    for cell, name, own in zip(cells, names, configs, strict=True):
      seed = own.seed + replica
      words = (*cell.words, f"--seed={seed}")
      name = ",".join(filter(None, (name, f"seed={seed}")))
      seeded = dataclasses.replace(own, seed=seed)
      found.append(Run(cell, name, words, seeded))
  _refuse_equal(found)
  return found


def _refuse_equal(found: Sequence[Run]) -> None:
  seen: dict[str, Run] = {}
  for run in found:
    other = seen.setdefault(json.dumps(run.document, sort_keys=True), run)
    if other is not run:
      first, second = (one_line(r.cell.label, 200) for r in (other, run))
      raise UserError(
        f"two cells are the same run, {first} and {second}: remove one"
      )


def short_keys(cells: Sequence[Cell]) -> dict[str, str]:
  """Returns the short name of each field that the cells sweep, by its key."""
  keys = (key for cell in cells for key in cell.values)
  return short_names(list(dict.fromkeys(keys)))


def _names(cells: Sequence[Cell]) -> list[str]:
  """One safe name of a folder per cell; no pattern of a shell or of orbax."""
  short = short_keys(cells)
  texts = [
    ",".join(
      f"{short[key]}={value}"
      for key, value in cell.values.items()
      if key != "seed"
    )
    for cell in cells
  ]
  count = collections.Counter(texts)
  names = []
  for text, cell in zip(texts, cells, strict=True):
    name = re.sub(r"[^\w.=,+-]", "_", text, flags=re.ASCII)
    whole = text if count[text] == 1 else " ".join(cell.words)
    if name != whole or len(name) > _LONGEST:
      name = f"{name[: _LONGEST - 9]}-{_digest(whole)}"
    names.append(name)
  return names


def _digest(text: str) -> str:
  content = text.encode("utf-8", "surrogateescape")
  return hashlib.sha256(content).hexdigest()[:8]
