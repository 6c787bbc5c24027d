"""Chips by name: their memory, their peak, and slices to compile for."""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

MISSING = (
  "libtpu is not installed, so nothing is compiled for a TPU: "
  "pip install jaxmodels[aot]"
)
_GIB = 2**30
_ENVIRONMENT = {
  # Otherwise libtpu asks the network for the machine,
  "TPU_SKIP_MDS_QUERY": "1",
  # and reports that it got no answer.
  "TPU_ACCELERATOR_TYPE": "v5e-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # Otherwise only one process can compile at a time.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# No slice has more; the compiler would not finish.
_MOST = 2**16
EXAMPLES = "v5e:16x16, v5p:2x2x4 or v6e:16x16"


class Chip(NamedTuple):
  """The limits of a device.

  Attributes:
    memory: Bytes that a program may use. For a TPU this is the compiler's
      figure, which reserves some memory for the system; for other chips it is
      all memory.
    peak: Floating-point operations per second, bfloat16 operands, dense.
  """

  memory: float
  peak: float


# Peaks and memory from the makers' data sheets: cloud.google.com/tpu/docs
# (v4, v5e, v5p, v6e), nvidia.com (A100, H100, H200).
_V5E = Chip(15.75 * _GIB, 197e12)
_V5P = Chip(95.73 * _GIB, 459e12)
_V6E = Chip(31.24 * _GIB, 918e12)
SLICES = {"v5e": _V5E, "v5p": _V5P, "v6e": _V6E}

# By `device_kind` of JAX. TPUs before v4 are left out, because
# each of their cores is a device.
CHIPS = {
  "TPU v4": Chip(32e9, 275e12),
  "TPU v5 lite": _V5E,
  "TPU v5e": _V5E,
  "TPU v5": _V5P,
  "TPU v5p": _V5P,
  "TPU v6 lite": _V6E,
  "TPU v6e": _V6E,
  "NVIDIA A100-SXM4-40GB": Chip(40e9, 312e12),
  "NVIDIA A100-SXM4-80GB": Chip(80e9, 312e12),
  "NVIDIA A100-PCIE-40GB": Chip(40e9, 312e12),
  "NVIDIA A100 80GB PCIe": Chip(80e9, 312e12),
  "NVIDIA H100 80GB HBM3": Chip(80e9, 989e12),
  "NVIDIA H100 PCIe": Chip(80e9, 756e12),
  "NVIDIA H200": Chip(141e9, 989e12),
}


def is_there() -> bool:
  """Whether libtpu, which compiles for TPUs, is installed."""
  return importlib.util.find_spec("libtpu") is not None


def slice_devices(name: str) -> list[Any]:
  """Returns the devices of a TPU slice, on a machine without the slice.

  Args:
    name: Chip and shape, such as "v5e:16x16".

  Raises:
    ValueError: There is no such slice.
    ModuleNotFoundError: libtpu is not installed.
  """
  chip, _, shape = name.partition(":")
  is_shape = re.fullmatch("[1-9][0-9]{0,3}(x[1-9][0-9]{0,3})+", shape)
  if chip not in SLICES or not is_shape:
    raise ValueError(
      f"{name} is unknown: give one of {', '.join(SLICES)} and its shape in"
      f" chips, such as {EXAMPLES}"
    )
  chips = math.prod(map(int, shape.split("x")))
  if chips > _MOST:
    raise ValueError(f"{name} has {chips} chips, more than {_MOST}")
  if not is_there():
    raise ModuleNotFoundError(MISSING)
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  try:
    found = topologies.get_topology_desc(name, platform="tpu")
  # The type of this runtime error is not public in JAX.
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise ValueError(
      f"there is no slice {name}: {error}; examples are {EXAMPLES}"
    ) from error
  return list(found.devices)
