"""Chips by name: their memory and peak, and slices of them to compile for."""

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
  # Or libtpu asks the network what machine this is,
  "TPU_SKIP_MDS_QUERY": "1",
  # and then complains that it got no answer.
  "TPU_ACCELERATOR_TYPE": "v5e-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # Or only one process at a time gets to compile.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# More than any slice has; the compiler would take for ever.
_MOST = 2**16
EXAMPLES = "v5e:16x16, v5p:2x2x4 or v6e:16x16"


class Chip(NamedTuple):
  """What a device can do at most.

  Attributes:
    memory: Bytes that a program may use. Of a TPU as its compiler says, which
      keeps some of the memory for the system; of others all there is.
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

# By `device_kind` of JAX. TPUs older than v4 show every core as a device, and
# are left out.
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
  """Whether libtpu is installed, which compiles for TPUs."""
  return importlib.util.find_spec("libtpu") is not None


def slice_devices(name: str) -> list[Any]:
  """Returns the devices of a TPU slice, without having the slice.

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
  # An error of the runtime, whose type is no public name of JAX.
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise ValueError(
      f"{name} cannot be: {error}; shapes are such as {EXAMPLES}"
    ) from error
  return list(found.devices)
