"""The files of a checkpoint: config.json and tensors in safetensors files."""

import json
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16)
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from jaxmodels.interop.config import FolderError

__all__ = [
  "Tensors",
  "has_tensors",
  "read_config",
  "write_config",
  "write_tensors",
]

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files that can run code when they are opened; they are never opened.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# After so many bytes a file is opened anew: the pages of a mapped file count
# as memory of the process as long as it is open.
_REOPEN_AFTER = 1 << 26


class Tensors:
  """The tensors of a folder, of which one at a time is in memory.

  Args:
    folder: A folder with `model.safetensors`, or with
      `model.safetensors.index.json` and the files that it names.
    rename: Pairs of a regular expression and its replacement: other names that
      some files have for the same tensors.
    known: Names that are not replaced.
    skip: Regular expressions of names of tensors that are left out.

  Raises:
    FolderError: A file is missing, is damaged, or is a pickle.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    rename: Iterable[tuple[str, str]] = (),
    known: Collection[str] = (),
    skip: Iterable[str] = (),
  ):
    self._folder = folder
    self._places: dict[str, tuple[str, str]] = {}
    for file in _files(folder):
      for name in self._open(file).keys():  # noqa: SIM118 (no iterator)
        if any(re.match(pattern, name) for pattern in skip):
          continue
        key = name
        for pattern, replacement in () if name in known else rename:
          key = re.sub(pattern, replacement, key)
        if key in self._places:
          raise FolderError(
            f"{folder}: the tensor {key!r} is there twice: in "
            f"{self._places[key][0]} and in {file}"
          )
        self._places[key] = (file, name)
    self._current: tuple[str, Any] | None = None
    self._bytes = 0

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __contains__(self, name: str) -> bool:
    return name in self._places

  def name_in_file(self, name: str) -> str:
    """The name that a file has for a tensor."""
    return self._places[name][1]

  def shape(self, name: str) -> list[int]:
    """The shape of a tensor, which is not read."""
    file, own_name = self._places[name]
    return self._open(file).get_slice(own_name).get_shape()

  def read(self, name: str) -> np.ndarray:
    """Returns the tensor of that name, in the dtype of the file."""
    file, own_name = self._places[name]
    if self._current is None or self._current[0] != file:
      self._current = (file, self._open(file))
    try:
      value = self._current[1].get_tensor(own_name)
    except (safetensors.SafetensorError, TypeError) as error:
      raise FolderError(f"{self._folder / file}: {name!r}: {error}") from error
    self._bytes += value.nbytes
    if self._bytes > _REOPEN_AFTER:
      self._current, self._bytes = None, 0
    return value

  def _open(self, file: str) -> Any:
    try:
      return safetensors.safe_open(self._folder / file, "numpy")
    except (safetensors.SafetensorError, OSError) as error:
      raise FolderError(
        f"{self._folder / file} is damaged or no safetensors file: {error}"
      ) from error


def _files(folder: pathlib.Path) -> list[str]:
  """The names of the files with tensors."""
  if (folder / INDEX).exists():
    return _indexed(folder)
  if (folder / SINGLE).exists():
    return [SINGLE]
  pickles = [x.name for x in folder.iterdir() if x.suffix in _PICKLES]
  if pickles:
    raise FolderError(
      f"{folder}: {pickles[0]} is a pickle, which can run code when it is "
      "opened: convert it to safetensors where you trust it"
    )
  raise FolderError(f"{folder}: there is neither {SINGLE} nor {INDEX}")


def has_tensors(folder: pathlib.Path) -> bool:
  """Whether a folder has tensors, and not only a config."""
  return (folder / INDEX).exists() or (folder / SINGLE).exists()


def _indexed(folder: pathlib.Path) -> list[str]:
  index = _json(folder / INDEX).get("weight_map")
  if not isinstance(index, dict) or not index:
    raise FolderError(f"{folder / INDEX}: there is no weight_map")
  files = sorted({str(file) for file in index.values()})
  for file in files:
    if pathlib.PurePath(file).name != file:
      raise FolderError(f"{folder / INDEX}: {file!r} is no name of a file")
    if not (folder / file).exists():
      raise FolderError(f"{folder}: {file} is missing, which {INDEX} names")
  return files


def _json(file: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(file.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise FolderError(f"{file.parent}: there is no {file.name}") from error
  except (OSError, ValueError) as error:
    raise FolderError(f"{file} cannot be read: {error}") from error
  if not isinstance(value, dict):
    raise FolderError(f"{file}: it must hold a mapping")
  return value


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """The values of a folder's `config.json`."""
  if not folder.is_dir():
    raise FolderError(f"{folder} is no folder")
  return _json(folder / CONFIG)


def write_config(folder: pathlib.Path, values: dict[str, Any]) -> None:
  """Writes `config.json`."""
  text = json.dumps(values, indent=2, sort_keys=True) + "\n"
  _replace(folder / CONFIG, lambda file: file.write_text(text, "utf-8"))


def write_tensors(
  folder: pathlib.Path,
  tensors: Iterable[tuple[str, np.ndarray]],
  shard_bytes: int,
) -> None:
  """Writes tensors, of which those of one file at a time are in memory.

  Args:
    folder: Where the files go.
    tensors: Names and values.
    shard_bytes: The largest size of a file, unless one tensor is larger.
  """
  shards: list[dict[str, np.ndarray]] = [{}]
  temporary: list[tuple[pathlib.Path, list[str]]] = []
  total = size = 0

  def flush() -> None:
    file = folder / f".model-{len(temporary)}.partial"
    temporary.append((file, list(shards[-1])))
    metadata = {"format": "pt"}
    safetensors_numpy.save_file(shards[-1], file, metadata=metadata)
    # safetensors lets nobody but the owner read it.
    file.chmod(0o666 & ~_umask())
    shards[-1] = {}

  try:
    for name, value in tensors:
      if shards[-1] and size + value.nbytes > shard_bytes:
        flush()
        size = 0
      shards[-1][name] = np.ascontiguousarray(value)
      size += value.nbytes
      total += value.nbytes
    flush()
  except BaseException:
    _remove(file for file, _ in temporary)
    raise
  _name_shards(folder, temporary, total)


def _name_shards(
  folder: pathlib.Path,
  written: list[tuple[pathlib.Path, list[str]]],
  total: int,
) -> None:
  """Gives the files their names, and writes the index of several.

  Files of an earlier checkpoint in the folder are removed.
  """
  earlier = {*folder.glob("model-*-of-*.safetensors"), folder / SINGLE}
  if len(written) == 1:
    (folder / INDEX).unlink(missing_ok=True)
    written[0][0].replace(folder / SINGLE)
    _remove(earlier - {folder / SINGLE})
    return
  weight_map = {}
  for i, (file, names) in enumerate(written, 1):
    name = f"model-{i:05}-of-{len(written):05}.safetensors"
    file.replace(folder / name)
    weight_map.update(dict.fromkeys(names, name))
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  text = json.dumps(index, indent=2, sort_keys=True) + "\n"
  _replace(folder / INDEX, lambda file: file.write_text(text, "utf-8"))
  _remove(earlier - {folder / name for name in weight_map.values()})


def _remove(paths: Iterable[pathlib.Path]) -> None:
  for path in paths:
    path.unlink(missing_ok=True)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _replace(file: pathlib.Path, write: Any) -> None:
  """Writes a file beside its place, then moves it there."""
  partial = file.with_name(f".{file.name}.partial")
  write(partial)
  os.replace(partial, file)
