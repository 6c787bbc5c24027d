"""A TPU chip to compile for, on a machine without a TPU."""

import functools
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxmodels.analysis.chips import slice_devices


@functools.cache
def chip() -> SingleDeviceSharding:
  """The sharding that puts all arrays on one TPU v5e chip."""
  return SingleDeviceSharding(slice_devices("v5e:2x2")[0])


def place(shapes: Any, where: SingleDeviceSharding) -> Any:
  """Shapes of the arrays, with this sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
  )
