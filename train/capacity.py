"""Whether the state of a run fits into the memory there is."""

import math
import os
from typing import Any

import jax

from train.errors import UserError

_GIB = 2**30


def check_fits(state: Any) -> None:
  """Refuses a state that is larger than all memory of all devices.

  A state that passes may still not fit beside the activations: `train.plan`
  says what a step needs. What cannot fit would end in a killed process.

  Args:
    state: Parameters and moments; only shapes are read.

  Raises:
    UserError: It cannot fit; says how large it is.
  """
  leaves = jax.tree.leaves(state)
  needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
  memory = _memory()
  if memory is not None and needed > memory:
    raise UserError(
      "config.model: parameters and optimizer state take "
      f"{needed / _GIB:,.1f} GiB, but there are {memory / _GIB:,.1f} GiB of "
      "memory: make vocab_size, width or depth smaller"
    )


def _memory() -> int | None:
  """Bytes of all devices together; None where they do not say."""
  if jax.default_backend() == "cpu":
    # Devices of one process share what the machine has.
    return jax.process_count() * _machine() or None
  total = 0
  for device in jax.local_devices():
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
      return None
    total += limit
  return jax.process_count() * total


def _machine() -> int:
  """Bytes of this machine's memory; 0 where the system does not say."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return 0
