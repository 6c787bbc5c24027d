"""One TPU chip to compile for on a machine that has none."""

import functools
import importlib.util
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MISSING = (
  "libtpu is not installed, so nothing is compiled for a TPU: "
  "pip install jaxmodels[aot]"
)


def is_there() -> bool:
  """Whether libtpu is installed."""
  return importlib.util.find_spec("libtpu") is not None


@functools.cache
def chip() -> NamedSharding:
  """Where the arrays of a program for one TPU v5e chip lie."""
  # Or libtpu asks the network what machine this is.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Or only one process at a time gets to compile.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  slice_ = topologies.get_topology_desc("v5e:2x2", platform="tpu")
  mesh = Mesh(np.array(slice_.devices[:1]), ("x",))
  return NamedSharding(mesh, PartitionSpec())


def place(shapes: Any, where: NamedSharding) -> Any:
  """Shapes of arrays that lie there."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
  )
