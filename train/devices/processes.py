"""Communication between the processes of a run; also works with one process.

All processes must call every function here in the same order.
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.devices.compilation_cache import use_cache
from train.errors import RunError, UserError, one_line


def start_jax() -> None:
  """Initializes the devices of JAX, before any code that needs them.

  Compiled programs are kept for the next start: see `use_cache`.

  Raises:
    UserError: JAX finds no device of the platforms in `JAX_PLATFORMS`.
  """
  try:
    jax.devices()
  # The type of the error depends on the platform and its packages.
  except Exception as error:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    raise UserError(
      f"JAX finds no devices with JAX_PLATFORMS={platforms}: {one_line(error)}"
    ) from error
  use_cache()


def is_first() -> bool:
  """Whether this is process 0, which writes and prints for all."""
  return jax.process_index() == 0


def _broadcast(text: str) -> str:
  """Returns the text of process 0 in every process."""
  content = np.frombuffer(text.encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
  # The other processes pass zeros of the same shape.
  mine = content if is_first() else np.zeros(size, np.uint8)
  return bytes(multihost_utils.broadcast_one_to_all(mine)).decode()


def on_process_zero(function: Callable[[], Any]) -> Any:
  """Calls a function in process 0; every process gets its result.

  Args:
    function: Its result must be representable as JSON.

  Raises:
    UserError: The function raised it.
    RunError: The function raised it, or raised any other error, which process 0
      raises unchanged.
  """
  if jax.process_count() == 1:
    return function()
  failure: Exception | None = None
  answer: dict[str, Any] = {}
  if is_first():
    try:
      answer = {"value": function()}
    except Exception as error:
      failure = error
      code = getattr(error, "exit_code", RunError.exit_code)
      answer = {"error": f"process 0: {one_line(error)}", "code": code}
  answer = json.loads(_broadcast(json.dumps(answer)))
  if failure is not None:
    raise failure
  if "error" in answer:
    kind = UserError if answer["code"] == UserError.exit_code else RunError
    raise kind(answer["error"])
  return answer["value"]


def check_same(values: Mapping[str, str]) -> None:
  """Checks that all processes hold the same values.

  Args:
    values: Values by the name to show in an error.

  Raises:
    UserError: The values differ; all processes raise it.
  """
  if jax.process_count() == 1:
    return
  sums = np.array([zlib.crc32(v.encode()) for v in values.values()], np.uint32)
  found = multihost_utils.process_allgather(sums)
  for process, row in enumerate(found):
    for name, here, there in zip(values, row, found[0], strict=True):
      if here != there:
        raise UserError(
          f"{name} differs between process 0 and process {process}; start all"
          " processes with the same command, code and data"
        )


class Agreement:
  """Shares a number of one process with all processes.

  Uses an all-reduce of one number per device. It is dispatched like a step, and
  its result is read in the next call, so no call waits for it.
  """

  def __init__(self) -> None:
    mesh = jax.make_mesh(
      (jax.device_count(),), ("all",), axis_types=(AxisType.Auto,)
    )
    self._cut = NamedSharding(mesh, PartitionSpec("all"))
    whole = NamedSharding(mesh, PartitionSpec())
    self._largest = jax.jit(lambda x: x.max(), out_shardings=whole)
    self._before: jax.Array | None = None

  def exchange(self, number: int) -> int:
    """Returns the largest number of all processes in the previous call."""
    before = self._before
    own = np.full(1, number, np.int32)
    self._before = self._largest(
      jax.make_array_from_callback(
        (jax.device_count(),), self._cut, lambda index: own
      )
    )
    return 0 if before is None else int(before)
