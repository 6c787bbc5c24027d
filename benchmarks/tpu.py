"""One TPU chip to compile for on a machine that has none."""

import functools
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxmodels.analysis.chips import slice_devices


@functools.cache
def chip() -> SingleDeviceSharding:
  """Where the arrays of a program for one TPU v5e chip lie."""
  return SingleDeviceSharding(slice_devices("v5e:2x2")[0])


def place(shapes: Any, where: SingleDeviceSharding) -> Any:
  """Shapes of arrays that lie there."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
  )
