"""Chips by name: their memory, their peak, and slices to compile for."""

import importlib.metadata
import importlib.resources
import importlib.util
import math
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.experimental import topologies

MISSING = (
  "libtpu is not installed, so nothing is compiled for a TPU: "
  "pip install jaxmodels[aot]"
)
MISSING_GPU = (
  "jax-cuda13-plugin or nvidia-cuda-nvcc is not installed, so nothing is"
  " compiled for a GPU: pip install jaxmodels[gpu-aot]"
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
EXAMPLES = "v5e:16x16, v5p:2x2x4, v6e:16x16, h100:8 or h100:4x8"


class Chip(NamedTuple):
  """The limits of a device.

  Attributes:
    memory: Bytes that a program may use. For a TPU this is the compiler's
      figure, which reserves some memory for the system; for other chips it is
      all memory.
    peak: Floating-point operations per second, bfloat16 operands, dense.
    platform: "tpu" or "gpu".
    capability: The compute capability of an NVIDIA GPU, such as 9.
  """

  memory: float
  peak: float
  platform: str = "tpu"
  capability: int = 0

  @property
  def default_memory(self) -> float:
    """Bytes that JAX uses by default: of a GPU 75%, see JAX's documentation."""
    return self.memory * (0.75 if self.platform == "gpu" else 1)


# Peaks and memory from the makers' data sheets: cloud.google.com/tpu/docs
# (v4, v5e, v5p, v6e), nvidia.com (A100, H100, H200, HGX B200). The memory of
# GPUs to compile for is that of their files in `targets`.
_V5E = Chip(15.75 * _GIB, 197e12)
_V5P = Chip(95.73 * _GIB, 459e12)
_V6E = Chip(31.24 * _GIB, 918e12)
_A100 = Chip(85100068864, 312e12, "gpu", 8)
_H100 = Chip(84942979072, 989e12, "gpu", 9)
_H200 = Chip(151397597184, 989e12, "gpu", 9)
_B200 = Chip(191514411008, 2250e12, "gpu", 10)
SLICES = {
  "v5e": _V5E,
  "v5p": _V5P,
  "v6e": _V6E,
  "a100": _A100,
  "h100": _H100,
  "h200": _H200,
  "b200": _B200,
}

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
  "NVIDIA A100-SXM4-40GB": Chip(40e9, 312e12, "gpu", 8),
  "NVIDIA A100-SXM4-80GB": _A100,
  "NVIDIA A100-PCIE-40GB": Chip(40e9, 312e12, "gpu", 8),
  "NVIDIA A100 80GB PCIe": Chip(80e9, 312e12, "gpu", 8),
  "NVIDIA H100 80GB HBM3": _H100,
  "NVIDIA H100 PCIe": Chip(80e9, 756e12, "gpu", 9),
  "NVIDIA H200": _H200,
  "NVIDIA B200": _B200,
}


def is_there(platform: str = "tpu") -> bool:
  """Whether what compiles for "tpu" or "gpu" is installed."""
  if platform == "tpu":
    return importlib.util.find_spec("libtpu") is not None
  # A toolkit on this machine also has what nvidia-cuda-nvcc has.
  compiler = _is_installed("nvidia-cuda-nvcc") or shutil.which("ptxas")
  return bool(compiler) and _is_installed("jax-cuda13-plugin")


def _is_installed(distribution: str) -> bool:
  return any(importlib.metadata.distributions(name=distribution))


def slice_devices(name: str) -> list[Any]:
  """Returns the devices of a slice, on a machine without the slice.

  Args:
    name: Chip and shape, such as "v5e:16x16". The shape of GPUs is the number
      of GPUs, or hosts x GPUs per host: "h100:8" or "h100:4x8". To compile for
      GPUs on a machine without one, JAX needs the platform "cpu" before it
      starts (`JAX_PLATFORMS=cpu`).

  Raises:
    ValueError: There is no such slice.
    ModuleNotFoundError: What compiles for it is not installed.
  """
  chip, _, shape = name.partition(":")
  is_gpu = chip in SLICES and SLICES[chip].platform == "gpu"
  shapes = "{0}(x{0})?" if is_gpu else "{0}(x{0})+"
  is_shape = re.fullmatch(shapes.format("[1-9][0-9]{0,3}"), shape)
  if chip not in SLICES or not is_shape:
    raise ValueError(
      f"{name} is unknown: give one of {', '.join(SLICES)} and its shape in"
      f" chips, such as {EXAMPLES}"
    )
  sizes = [int(size) for size in shape.split("x")]
  chips = math.prod(sizes)
  if chips > _MOST:
    raise ValueError(f"{name} has {chips} chips, more than {_MOST}")
  if is_gpu:
    return list(_gpus(chip, (1, *sizes)[-2:]).devices)
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


def _gpus(chip: str, shape: Sequence[int]) -> Any:
  if not is_there("gpu"):
    raise ModuleNotFoundError(MISSING_GPU)
  targets = importlib.resources.files("jaxmodels.analysis") / "targets"
  hosts, gpus = shape
  try:
    return topologies.get_topology_desc(
      chip,
      platform="cuda",
      topology=f"1x{hosts}x{gpus}",
      target_config=(targets / f"{chip}.txtpb").read_text(),
    )
  except (RuntimeError, NotImplementedError) as error:
    raise ValueError(
      f"{chip}: JAX's plugin for GPUs did not start ({error}): start Python"
      " with JAX_PLATFORMS=cpu"
    ) from error
