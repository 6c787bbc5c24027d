"""The measured ops: their arguments, methods and plain `lax.scan`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import scans
from jaxmodels.testing import examples
from jaxmodels.testing.examples import OPS, OpExample

Inputs = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Sizes(examples.Sizes):
  """The sizes for timing, with K = V and slow decays.

  If the state is a vector, its width is K / 4.
  """

  batch: int = 2
  length: int = 4096
  heads: int = 4
  width: int = 64
  values: int | None = None
  small: int = 0
  decay: float = 0.1
  beta: float = 1.0

  def __post_init__(self) -> None:
    object.__setattr__(self, "small", max(self.width // 4, 1))


@dataclasses.dataclass(frozen=True)
class Case:
  """An op with one kind of arguments.

  Attributes:
    record: the op, and how to draw its arguments.
    definition: the same as a user would write it, a plain `lax.scan`, called
      with the inputs; None where there is none.
  """

  record: OpExample
  definition: Callable[..., Any] | None = None

  @property
  def name(self) -> str:
    """That of the record."""
    return self.record.name

  @property
  def methods(self) -> tuple[str, ...]:
    """The values that the op accepts as `method`."""
    return self.record.methods

  @property
  def matrix_state(self) -> bool:
    """Whether the state is [K, V] per head."""
    return self.record.matrix_state

  def op(self, **inputs: Any) -> Any:
    """Calls the op, `op(**inputs, method=...)`: y and its state."""
    result = self.record.op(**self.record.options, **inputs)
    return result if isinstance(result, tuple) else (result, ())

  def inputs(self, sizes: Sizes, dtype: Any = jnp.float32) -> Inputs:
    """Arrays from a fixed seed."""
    drawn = self.record.draw(np.random.default_rng(0), sizes)
    drawn.pop("initial_state", None)
    return {name: jnp.asarray(x, dtype) for name, x in drawn.items()}

  def shapes(self, sizes: Sizes, dtype: Any = jnp.float32) -> Any:
    """The inputs without their values, and without drawing them."""
    one = dataclasses.replace(sizes, length=1)
    two = dataclasses.replace(sizes, length=2)
    return jax.tree.map(
      lambda x, y: jax.ShapeDtypeStruct(
        tuple(
          a if a == b else a * sizes.length
          for a, b in zip(x.shape, y.shape, strict=True)
        ),
        x.dtype,
      ),
      self.inputs(one, dtype),
      self.inputs(two, dtype),
    )


# Records that state their flops are timed, and the Kalman scans, which state
# them by N and M. What is left out costs what another record does.
CASES = {
  name: Case(record, getattr(scans, record.op.__name__, None))
  for name, record in OPS.items()
  if record.flops or name.startswith("kalman")
}
