"""The order in which examples are read: a function of seed and place.

An order maps places of the endless stream of examples, int64 arrays, to
numbers of examples. It depends on nothing else, so a run resumes anywhere, in
any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Order = Callable[[np.ndarray], np.ndarray]

# From this many examples on, an epoch's order is computed place by place: to
# sort 16 million keys takes 2 seconds and 400 MB.
_MOST_SORTED = 1 << 24
# With 4 rounds orders of few examples are not even.
_ROUNDS = 6


def order_of(dataset: Any, seed: Sequence[int] | None) -> Order:
  """Returns the order of a data set.

  A data set may have its own: `order(seed)`, as `Mixture` has.

  Args:
    dataset: The examples.
    seed: Non-negative integers; None for the order of the indices.
  """
  own = getattr(dataset, "order", None)
  if own is not None:
    return own(seed)
  size = len(dataset)
  if seed is None:
    return lambda places: places % size
  if size > _MOST_SORTED:
    return Computed(size, seed)
  return Sorted(size, seed)


class Sorted:
  """Epoch by epoch each example once, in an order that is kept in memory.

  Args:
    size: Examples.
    seed: Non-negative integers.
  """

  def __init__(self, size: int, seed: Sequence[int]):
    self._size, self._seed = size, seed
    self._orders: dict[int, np.ndarray] = {}

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """Returns the numbers of the examples at some places."""
    found = np.empty_like(places)
    epochs = places // self._size
    # A batch reads the end of one epoch, then the start of the next, so two
    # orders are needed at most.
    needed = np.unique(epochs).tolist()
    self._orders = {epoch: self._epoch(epoch) for epoch in needed}
    for epoch, order in self._orders.items():
      here = epochs == epoch
      found[here] = order[places[here] % self._size]
    return found

  def _epoch(self, epoch: int) -> np.ndarray:
    if epoch in self._orders:
      return self._orders[epoch]
    # Sorted raw bits, not `Generator.permutation`: numpy promises that a bit
    # generator's stream stays as it is, and does not for its methods, and a
    # run may resume with a later numpy.
    bits = np.random.Philox(np.random.SeedSequence([*self._seed, epoch]))
    keys = bits.random_raw(self._size)
    return np.argsort(keys, kind="stable")


class Computed:
  """Epoch by epoch each example once, in an order that takes no memory.

  A Feistel network permutes [0, 4^k), the smallest such range that holds all
  numbers, and is applied again while a number is out of range, on average at
  most three times (Black and Rogaway, 2002, "Ciphers with Arbitrary Finite
  Domains").

  Args:
    size: Examples.
    seed: Non-negative integers.
  """

  def __init__(self, size: int, seed: Sequence[int]):
    self._size, self._seed = size, seed
    self._half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    self._mask = np.uint64((1 << int(self._half)) - 1)

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """Returns the numbers of the examples at some places."""
    found = np.empty_like(places)
    epochs = places // self._size
    for epoch in np.unique(epochs).tolist():
      sequence = np.random.SeedSequence([*self._seed, epoch])
      keys = sequence.generate_state(_ROUNDS, np.uint64)
      here = epochs == epoch
      values = (places[here] % self._size).astype(np.uint64)
      outside = np.ones(len(values), bool)
      while outside.any():
        values[outside] = self._permute(values[outside], keys)
        outside = values >= self._size
      found[here] = values
    return found

  def _permute(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = values >> self._half, values & self._mask
    for key in keys:
      left, right = right, left ^ (_mixed(right ^ key) & self._mask)
    return (left << self._half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
  """Mixes the bits of uint64 numbers (the finalizer of SplitMix64)."""
  # Products wrap around on purpose; numpy does not warn of it in arrays.
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
