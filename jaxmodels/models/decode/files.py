"""Files of states: what a prefix costs is paid once.

A file has the layout of safetensors: the length of a header (8 bytes, little
endian), the header in JSON, and the bytes of the arrays. Reading it runs no
code, and a file that is not as expected is refused in one line.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.models.decode.decoder import Decoder
from jaxmodels.models.decode.state import DecodeState

__all__ = ["StateFileError", "identity", "load_state", "save_state"]

_FORMAT = "jaxmodels decode state 1"
_MOST_HEADER = 1 << 26
# The names of safetensors for dtypes.
_NAMES = {
  "bool": "BOOL",
  "int8": "I8",
  "uint8": "U8",
  "int16": "I16",
  "uint16": "U16",
  "int32": "I32",
  "uint32": "U32",
  "int64": "I64",
  "uint64": "U64",
  "float16": "F16",
  "bfloat16": "BF16",
  "float32": "F32",
  "float64": "F64",
  "complex64": "C64",
  "complex128": "C128",
}


class StateFileError(ValueError):
  """A file is not a state of this model; one line says why."""


def identity(model: nn.Module, variables: Any) -> str:
  """A hash of the structure of a model and of all its variables, in hex.

  Args:
    model: The module.
    variables: Its variables: the whole arrays are read.
  """
  found = hashlib.sha256(_described(model).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.ascontiguousarray(jax.device_get(leaf))
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
    found.update(name.encode())
    found.update(array.reshape(-1).view(np.uint8).data)
  return found.hexdigest()


def _described(model: nn.Module) -> str:
  """The shapes of a model's state, which no field can change unnoticed."""
  init_state: Any = getattr(model, "init_state")  # noqa: B009
  return f"{type(model).__name__} {jax.eval_shape(lambda: init_state(1))}"


def save_state(
  path: str | os.PathLike[str],
  decoder: Decoder,
  state: DecodeState,
  owner: str = "",
) -> None:
  """Writes a state to a file, in place of an old one.

  Args:
    path: The file.
    decoder: The decoder that made the state.
    state: The state.
    owner: What the model is called in messages, such as a run and its step.

  Raises:
    OSError: The file cannot be written; an old file stays.
  """
  arrays = {
    jax.tree_util.keystr(path): np.ascontiguousarray(jax.device_get(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
  header: dict[str, Any] = {
    "__metadata__": {
      "format": _FORMAT,
      "model": identity(decoder.model, decoder.variables),
      "owner": owner,
    }
  }
  end = 0
  for name, array in arrays.items():
    start, end = end, end + array.nbytes
    header[name] = {
      "dtype": _NAMES[array.dtype.name],
      "shape": list(array.shape),
      "data_offsets": [start, end],
    }
  content = json.dumps(header).encode()
  content += b" " * (-len(content) % 8)
  temporary = f"{os.fspath(path)}.{secrets.token_hex(8)}"
  try:
    with open(temporary, "xb") as file:
      file.write(len(content).to_bytes(8, "little"))
      file.write(content)
      for array in arrays.values():
        file.write(_little_endian(array).tobytes())
    os.replace(temporary, path)
  except BaseException:
    if os.path.exists(temporary):
      os.unlink(temporary)
    raise


def load_state(path: str | os.PathLike[str], decoder: Decoder) -> DecodeState:
  """Reads a state that `save_state` has written.

  Args:
    path: The file.
    decoder: A decoder of the same model and variables. Its sampling may
      differ from that of the decoder that made the state.

  Raises:
    StateFileError: The file is no state, is damaged, or belongs to another
      model or to other variables.
    OSError: The file cannot be read.
  """
  name = os.fspath(path)
  with open(path, "rb") as file:
    header, size = _header(name, file)
    about = header.pop("__metadata__", {})
    _require(
      isinstance(about, dict) and about.get("format") == _FORMAT,
      f"{name} is no state of a decoder",
    )
    _require(
      about.get("model") == identity(decoder.model, decoder.variables),
      f"{name} belongs to another model or checkpoint: {about.get('owner')}",
    )
    rows = _rows(name, header)
    shapes = decoder.shapes(rows)
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    start = file.tell()
    arrays = []
    for key, leaf in leaves:
      offset = _checked(name, header, jax.tree_util.keystr(key), leaf, size)
      file.seek(start + offset)
      count = math.prod(leaf.shape) * leaf.dtype.itemsize
      array = np.frombuffer(file.read(count), leaf.dtype).reshape(leaf.shape)
      arrays.append(jnp.asarray(_little_endian(array)))
  return jax.tree.unflatten(structure, arrays)


def _header(name: str, file: Any) -> tuple[dict[str, Any], int]:
  """The header of a file, and the size of what follows it, in bytes."""
  whole = os.fstat(file.fileno()).st_size
  length = int.from_bytes(file.read(8), "little")
  _require(
    whole >= 8 and length <= min(whole - 8, _MOST_HEADER),
    f"{name} is no state of a decoder, or is cut off",
  )
  header: Any = None
  with contextlib.suppress(ValueError, RecursionError):
    header = json.loads(file.read(length))
  _require(isinstance(header, dict), f"{name} is no state of a decoder")
  return header, whole - 8 - length


def _rows(name: str, header: dict[str, Any]) -> int:
  """The number of rows, by the entry of the last tokens."""
  entry: Any = header.get(".token")
  shape: Any = entry.get("shape") if isinstance(entry, dict) else None
  valid = isinstance(shape, list) and len(shape) == 1
  valid = valid and type(shape[0]) is int and 0 < shape[0] < 2**31
  _require(valid, f"{name} has no entry of the last tokens")
  return shape[0]


def _checked(
  name: str, header: dict[str, Any], key: str, leaf: Any, size: int
) -> int:
  """The offset of an array, in bytes, after a check of its entry."""
  entry: Any = header.get(key)
  wanted = {
    "dtype": _NAMES[np.dtype(leaf.dtype).name],
    "shape": list(leaf.shape),
  }
  _require(
    isinstance(entry, dict)
    and {field: entry.get(field) for field in wanted} == wanted,
    f"{name}: the entry {key} must be {wanted}, got {entry}",
  )
  offsets = entry.get("data_offsets")
  count = math.prod(leaf.shape) * leaf.dtype.itemsize
  _require(
    isinstance(offsets, list)
    and len(offsets) == 2
    and all(type(offset) is int for offset in offsets)
    and offsets[0] >= 0
    and offsets[1] <= size
    and offsets[1] - offsets[0] == count,
    f"{name} is damaged or cut off at the entry {key}",
  )
  return offsets[0]


def _little_endian(array: np.ndarray) -> np.ndarray:
  return array if sys.byteorder == "little" else array.byteswap()


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise StateFileError(message)
