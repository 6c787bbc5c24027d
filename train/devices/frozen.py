"""The variables of a teacher on the devices, beside the state of a run."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from train.losses.distillation import Teacher


class Frozen:
  """Variables that programs read and that no step changes.

  Args:
    teacher: The teacher that has the variables; None without a teacher.
    place: Maps the variables to their shardings.
    put: Moves the variables to the devices, if `jax.device_put` does not.
  """

  def __init__(
    self,
    teacher: Teacher | None,
    place: Callable[[Any], Any],
    put: Callable[[Any], Any] | None = None,
  ):
    self._variables = () if teacher is None else teacher.variables
    self._place, self._put = place, put

  @functools.cached_property
  def placed(self) -> Any:
    """The variables on the devices; the first call moves them there."""
    if self._put is not None:
      return self._put(self._variables)
    return jax.device_put(self._variables, self._place(self._variables))

  @property
  def shapes(self) -> Any:
    """The shapes of the variables, with shardings."""
    if self._put is not None:
      return self.placed
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      self._variables,
      self._place(self._variables),
    )

  def bind(self, program: Any) -> "Bound":
    """Returns a program of state and batch."""
    return Bound(program, self)


class Bound:
  """A program whose last argument stays on the devices between calls."""

  def __init__(self, program: Any, frozen: Frozen):
    self._program, self._frozen = program, frozen

  def __call__(self, *args: Any) -> Any:
    """Runs the program."""
    return self._program(*args, self._frozen.placed)

  def lower(self, *args: Any) -> Any:
    """Returns the uncompiled program for arguments or their shapes."""
    return self._program.lower(*args, self._frozen.shapes)

  def trace(self, *args: Any) -> Any:
    """Returns the traced program for arguments or their shapes."""
    return self._program.trace(*args, self._frozen.shapes)
