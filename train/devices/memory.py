"""Checks that a run can fit into memory before anything is allocated."""

import math
import os
from typing import Any

import jax

from train.config import Config, Mesh
from train.errors import UserError

# Files in which Linux gives the memory limit of a container.
_LIMIT = "/sys/fs/cgroup/memory.max"


def readable(size: int | None) -> str:
  """Formats bytes with a binary unit, such as "1.5 GiB"."""
  if size is None:
    return "unknown"
  power = min(max(size.bit_length() - 1, 0) // 10, 4)
  unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
  return f"{size / 2 ** (10 * power):.4g} {unit}"


def check(
  config: Config,
  mesh: Mesh,
  state: Any,
  example: Any,
  copies: int = 1,
  frozen: Any = (),
) -> None:
  """Refuses a run that cannot fit into memory.

  Otherwise it may take minutes to fail, or halt the machine.

  Args:
    config: The run.
    mesh: Devices along each axis.
    state: The shapes of its state.
    example: The arrays of one example.
    copies: How many such states the devices hold.
    frozen: The variables of a teacher, which the devices hold once.

  Raises:
    UserError: The state or a batch is larger than the memory.
  """
  host = _of_host()
  size = sum(x.nbytes for x in jax.tree.leaves(example))
  batch = config.batch_size // jax.process_count() * size
  if host is not None and batch > host:
    raise UserError(
      f"config.batch_size is {config.batch_size}: a batch needs"
      f" {readable(batch)}, but this machine has {readable(host)} of memory"
      "; lower config.batch_size"
    )
  device = _of_device(host)
  # No array is sharded over more than `mesh.fsdp` devices.
  needed = (copies * _bytes(state) + _bytes(frozen)) // mesh.fsdp
  if device is not None and needed > device:
    of, fewer = "", ""
    if copies > 1:
      of, fewer = f" of {copies} replicas", ", or fewer replicas"
    raise UserError(
      f"config.model: parameters and optimizer{of} need {readable(needed)} per"
      f" device, which has {readable(device)} of memory; take a smaller"
      f" model{fewer}, or shard it over more devices with config.mesh.fsdp"
    )


def _of_host() -> int | None:
  """Returns the memory of this machine or container; None if unknown."""
  try:
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (OSError, ValueError):
    return None
  try:
    with open(_LIMIT) as file:
      return min(found, int(file.read()))
  # The file does not exist, or contains "max".
  except (OSError, ValueError):
    return found


def _of_device(host: int | None) -> int | None:
  """Returns the memory of a device in bytes; None if unknown."""
  device = jax.local_devices()[0]
  if device.platform == "cpu":
    return host
  return (device.memory_stats() or {}).get("bytes_limit")


def _bytes(tree: Any) -> int:
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
