"""A TPU or a GPU to compile for, on a machine without one."""

import contextlib
import functools
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxmodels.analysis.chips import SLICES, slice_devices
from jaxmodels.ops.engine.platform import trace_for


@functools.cache
def chip(name: str = "v5e:2x2") -> SingleDeviceSharding:
  """The sharding that puts all arrays on the first chip of a slice."""
  return SingleDeviceSharding(slice_devices(name)[0])


def traced_for(name: str) -> contextlib.AbstractContextManager[None]:
  """Traces for the chips of a slice; see `trace_for`."""
  kind = SLICES[name.partition(":")[0]]
  return trace_for(kind.platform, capability=kind.capability)


def place(shapes: Any, where: SingleDeviceSharding) -> Any:
  """Shapes of the arrays, with this sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
  )
