"""Arrays in memory, or memory-mapped from `.npy` files, as a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import (
  Example,
  NumberCodec,
  check_at_least,
  check_index,
  check_split,
  digest_of_examples,
)
from train.errors import one_line


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Arrays whose first axis numbers the examples.

  Give `train` and `validation` as dictionaries of arrays, or as the path of an
  `.npz` file, or of a folder of `.npy` files, which are memory-mapped. The
  names of the arrays are the names in a batch. Where `targets` has the shape of
  `inputs`, missing `weights` are ones and missing `segment_ids` zeros.

  A saved config keeps paths, and of arrays in memory only their digest.

  Attributes:
    train: The training split.
    validation: The validation split.
    vocab_size: Tokens are in `[0, vocab_size)`; 0 to take the largest integer
      of `inputs` and `targets`, in both splits, and one more.
  """

  train: Any = ""
  validation: Any = ""
  vocab_size: int = 0

  def __post_init__(self) -> None:
    for split in ("train", "validation"):
      value = getattr(self, split)
      if isinstance(value, Mapping):
        object.__setattr__(self, split, Held.of(value))

  def open(self, split: str) -> Rows:
    """Opens a split.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: if there are no such arrays, or their lengths differ.
    """
    check_split(split)
    check_at_least(0, vocab_size=self.vocab_size)
    arrays = _arrays(getattr(self, split), split)
    vocab_size = self.vocab_size
    if not vocab_size:
      other = "validation" if split == "train" else "train"
      both = arrays, _arrays(getattr(self, other), other)
      vocab_size = max(_largest(found) for found in both) + 1
    return Rows(arrays, vocab_size)

  def codec(self, vocab_size: int | None = None) -> NumberCodec | None:
    """Returns what reads and writes tokens as numbers."""
    known = self.vocab_size or vocab_size
    return NumberCodec(known) if known else None


@dataclasses.dataclass(frozen=True)
class Held:
  """Arrays in the memory of this process; a saved config keeps the digest.

  Attributes:
    digest: Of all arrays.
  """

  digest: str = ""

  @classmethod
  def of(cls, arrays: Mapping[str, Any]) -> Held:
    """Holds arrays."""
    found = {name: np.asarray(array) for name, array in arrays.items()}
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(found):
      array = found[name]
      content.update(f"{name} {array.dtype} {array.shape} ".encode())
      content.update(np.ascontiguousarray(array).data)
    held = cls(content.hexdigest())
    object.__setattr__(held, "arrays", found)
    return held

  def open(self, split: str) -> dict[str, np.ndarray]:
    """Returns the arrays.

    Args:
      split: For the error.

    Raises:
      ValueError: They were in the memory of another process.
    """
    found = getattr(self, "arrays", None)
    if found is None:
      raise ValueError(
        f"the {split} arrays were in the memory of the program that trained:"
        " call it from that program, or save them as .npz and give the path"
      )
    return found


def _arrays(value: Any, split: str) -> dict[str, np.ndarray]:
  """Returns arrays by name, of one length."""
  if isinstance(value, Held):
    arrays = value.open(split)
  elif isinstance(value, str) and value:
    arrays = _load(os.path.expanduser(value))
  else:
    raise ValueError(
      f"there are no {split} arrays: set {split} to a dictionary of arrays, an"
      " .npz file, or a folder of .npy files"
    )
  lengths = {
    name: len(array) if array.ndim else -1 for name, array in arrays.items()
  }
  if not lengths or len(set(lengths.values())) > 1 or -1 in lengths.values():
    raise ValueError(
      f"the {split} arrays need one length, that of the examples, got {lengths}"
    )
  return arrays


def _load(path: str) -> dict[str, np.ndarray]:
  try:
    if os.path.isdir(path):
      names = sorted(x for x in os.listdir(path) if x.endswith(".npy"))
      return {
        name.removesuffix(".npy"): np.load(
          os.path.join(path, name), mmap_mode="r", allow_pickle=False
        )
        for name in names
      }
    with np.load(path, allow_pickle=False) as found:
      if not isinstance(found, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array: give its folder")
      return dict(found)
  except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
    reason = getattr(error, "strerror", None) or one_line(error, 200)
    raise ValueError(f"cannot read the arrays {path!r}: {reason}") from error


def _largest(arrays: Mapping[str, np.ndarray]) -> int:
  """Returns the largest token, or -1 if there is none."""
  found = [arrays[x] for x in ("inputs", "targets") if x in arrays]
  tokens = [x for x in found if x.dtype.kind in "iu" and x.size]
  return max((int(x.max()) for x in tokens), default=-1)


class Rows:
  """Examples of arrays; see `Arrays`."""

  def __init__(self, arrays: Mapping[str, np.ndarray], vocab_size: int):
    self._arrays = arrays
    self.vocab_size = vocab_size
    codec = NumberCodec(vocab_size)
    self.encode = codec.encode
    self.decode = codec.decode

  def __len__(self) -> int:
    return len(next(iter(self._arrays.values())))

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = check_index(index, len(self))
    row = {name: _usual(x[number]) for name, x in self._arrays.items()}
    shapes = [row[x].shape for x in ("inputs", "targets") if x in row]
    if len(shapes) == 2 and shapes[0] == shapes[1]:
      row.setdefault("weights", np.ones(shapes[0], np.float32))
      row.setdefault("segment_ids", np.zeros(shapes[0], np.int32))
    return row

  def digest(self) -> str:
    """Returns a number of some examples and of the shapes of all arrays."""
    shapes = {name: array.shape for name, array in self._arrays.items()}
    return digest_of_examples(self, shapes)


def _usual(value: Any) -> np.ndarray:
  """Returns a new array; integers of other sizes become int32, as JAX's."""
  array = np.array(value)
  return array.astype(np.int32) if array.dtype.kind in "iu" else array
