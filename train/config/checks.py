"""Checks of single values of a config, shared by its files."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from train.errors import UserError, shown

# Steps are counted, and tokens numbered, in int32.
MOST = 2**31 - 1
# A key of JAX is made of 32 bits; of a larger seed it would drop the rest.
MOST_SEED = 2**32 - 1
# Smaller numbers are 0 on most devices.
LEAST = float(np.finfo(np.float32).tiny)

REAL = "more than 0 and finite in float32"


def require(condition: bool, key: str, value: object, wanted: str) -> None:
  """Raises a UserError that names a key, its value, and what it must be."""
  if not condition:
    raise UserError(f"config.{key} is {shown(value)}, but must be {wanted}")


def as_float32(value: float) -> float:
  """Returns a number as the devices see it: 1e39 is infinite, 1e-50 is 0."""
  try:
    with np.errstate(over="ignore", under="ignore"):
      return float(np.float32(value))
  except OverflowError:
    return math.inf


def is_count(value: int, least: int = 1) -> bool:
  """Says whether a number of steps, or of tokens, fits into int32."""
  return least <= value <= MOST


def is_real(value: float) -> bool:
  """Says whether a number is positive and finite in float32."""
  return LEAST <= as_float32(value) < math.inf


class Fields:
  """Checks fields of one dataclass of a config.

  Args:
    owner: The dataclass.
    key: Its dotted path, without "config.".
  """

  def __init__(self, owner: Any, key: str):
    self._owner, self._key = owner, key

  def require(self, condition: bool, name: str, wanted: str) -> None:
    """Raises a UserError about the field `name` unless `condition` holds."""
    value = getattr(self._owner, name)
    require(condition, f"{self._key}.{name}", value, wanted)

  def positive(self, *names: str) -> None:
    """Requires finite numbers above 0 in float32."""
    for name in names:
      self.require(is_real(getattr(self._owner, name)), name, REAL)

  def optional(
    self, fits: Callable[[float], bool], name: str, wanted: str
  ) -> None:
    """Requires a number that fits, or None."""
    value = getattr(self._owner, name)
    self.require(value is None or fits(value), name, f"{wanted}, or None")

  def fraction(self, *names: str) -> None:
    """Requires numbers of at least 0 that are less than 1 in float32."""
    wanted = "0 or more and less than 1 in float32"
    for name in names:
      inside = 0 <= as_float32(getattr(self._owner, name)) < 1
      self.require(inside, name, wanted)

  def between(self, *names: str) -> None:
    """Requires numbers from 0 to 1, both included."""
    for name in names:
      inside = 0 <= getattr(self._owner, name) <= 1
      self.require(inside, name, "between 0 and 1")

  def count(self, *names: str, least: int = 0) -> None:
    """Requires whole numbers from `least` on that fit into int32."""
    for name in names:
      fits = is_count(getattr(self._owner, name), least)
      self.require(fits, name, f"{least} to {MOST}")
