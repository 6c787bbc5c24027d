"""State tracking: tasks whose answer is the state of a finite automaton."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = [
  "GROUPS",
  "CycleNavigation",
  "GroupWords",
  "ModularArithmetic",
  "Parity",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateTracking(SequenceTask):
  """A task whose target is a state after every token.

  The other fields are those of `SequenceTask`.

  Attributes:
    every_prefix: Whether the state after every token is a target, as in
      Merrill et al. 2024 (arXiv:2404.08819), or that after the last token
      alone, as in Deletang et al. 2023 (arXiv:2207.02098).
    documents: The number of documents of equal length in a row of training,
      each of which starts from the first state; it divides `length`. Short
      words are learnt first (see `train.data.Stages`). Rows of
      `validation_length` are one document.
  """

  every_prefix: bool = True
  documents: int = 1

  def states(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws tokens [L], and the state after each of them, [L]."""
    raise NotImplementedError

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row with "segment_ids"; see `SequenceTask.row`."""
    if self.documents > 1:
      size = self.length // self.documents
      rows = [self.at_length(size).row(rng) for _ in range(self.documents)]
      row = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
      ids = np.repeat(np.arange(self.documents, dtype=np.int32), size)
      return {**row, "segment_ids": ids}
    inputs, targets = self.states(rng)
    weights = np.full(self.length, float(self.every_prefix), np.float32)
    weights[-1] = 1
    return {
      "inputs": inputs.astype(np.int32),
      "targets": targets.astype(np.int32),
      "weights": weights,
      "segment_ids": np.zeros(self.length, np.int32),
    }

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, documents=self.documents)
    if self.length % self.documents:
      raise ValueError(
        f"documents must divide length = {self.length}, got {self.documents}"
      )

  def at_length(self, length: int) -> SequenceTask:
    """Returns the task with rows of one document of another length."""
    return dataclasses.replace(
      self, length=length, validation_length=None, documents=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity(StateTracking):
  """Whether the number of ones so far is odd.

  A linear recurrence with eigenvalues in [0, 1] cannot solve it at all lengths
  (Grazzi et al. 2024, arXiv:2411.12537).
  """

  name: ClassVar[str] = "parity"

  @property
  def vocab_size(self) -> int:
    """Tokens and states are 0 and 1."""
    return 2

  def states(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """See `StateTracking.states`."""
    bits = rng.integers(0, 2, self.length)
    return bits, np.cumsum(bits) % 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class CycleNavigation(StateTracking):
  """The place on a cycle after steps: 0 stays, 1 goes forward, 2 backward.

  Deletang et al. 2023, arXiv:2207.02098.

  Attributes:
    places: The number of places, at least 3.
  """

  name: ClassVar[str] = "cycle_navigation"

  places: int = 5

  @property
  def vocab_size(self) -> int:
    """The number of places; steps are its first three tokens."""
    return self.places

  def check(self) -> None:
    """See `SequenceTask.check`."""
    super().check()
    check_at_least(3, places=self.places)

  def states(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """See `StateTracking.states`."""
    steps = rng.integers(0, 3, self.length)
    moves = np.array([0, 1, -1])[steps]
    return steps, np.cumsum(moves) % self.places


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModularArithmetic(SequenceTask):
  """The value of an expression such as 3 + 1 * 4 - 2, modulo a number.

  Numbers and operators alternate, and * binds more tightly than + and -. The
  target at a number is the value of the expression so far. Deletang et al.
  2023, arXiv:2207.02098, ask for the last one alone: `every_prefix` False.

  Attributes:
    modulus: m; numbers are tokens 0 to m - 1, and +, - and * follow.
    every_prefix: Whether the value at every number is a target.
  """

  name: ClassVar[str] = "modular_arithmetic"

  modulus: int = 5
  every_prefix: bool = True

  @property
  def vocab_size(self) -> int:
    """Numbers and three operators."""
    return self.modulus + 3

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(2, modulus=self.modulus)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    inputs = rng.integers(0, self.modulus, self.length)
    inputs[1::2] = self.modulus + rng.integers(0, 3, self.length // 2)
    targets = np.zeros_like(inputs)
    # The value is done + term, where a product may still change the term.
    done, term, operator = 0, 0, self.modulus
    for place, token in enumerate(inputs):
      if place % 2:
        operator = token
      elif operator == self.modulus + 2:
        term = term * token % self.modulus
      else:
        sign = 1 if operator == self.modulus else -1
        done, term = done + term, sign * token
      targets[place] = (done + term) % self.modulus
    weights = np.zeros(self.length, np.float32)
    weights[(0 if self.every_prefix else (self.length - 1) // 2 * 2) :: 2] = 1
    return {
      "inputs": inputs.astype(np.int32),
      "targets": targets.astype(np.int32),
      "weights": weights,
    }


def _permutations(size: int, even: bool = False) -> np.ndarray:
  """All permutations of 0 ... size - 1, or the even ones: [n, size]."""
  found = np.array(list(itertools.permutations(range(size))))
  pairs = list(itertools.combinations(range(size), 2))
  odd = sum((found[:, i] > found[:, j]).astype(int) for i, j in pairs) % 2
  return found[odd == 0] if even else found


def _products(elements: np.ndarray) -> np.ndarray:
  """The table of products ab, "first b, then a", of permutations [n, n]."""
  index = {tuple(element): i for i, element in enumerate(elements)}
  return np.array(
    [[index[tuple(a[b])] for b in elements] for a in elements], np.int32
  )


def _cyclic(size: int) -> np.ndarray:
  return (np.arange(size)[:, None] + np.arange(size)[None]) % size


# The table of products of each group; element 0 is the identity.
GROUPS = {
  "S3": lambda: _products(_permutations(3)),
  "S4": lambda: _products(_permutations(4)),
  "S5": lambda: _products(_permutations(5)),
  "A5": lambda: _products(_permutations(5, even=True)),
  "Z2": lambda: _cyclic(2),
  "Z60": lambda: _cyclic(60),
}


@functools.cache
def table(group: str) -> np.ndarray:
  """The products of a group of `GROUPS`, [n, n]."""
  return GROUPS[group]()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupWords(StateTracking):
  """The word problem of a group: the product of the elements so far.

  Merrill et al. 2024, "The Illusion of State in State-Space Models",
  arXiv:2404.08819. A5 and S5 are not solvable, so their words are complete for
  NC1; S3 and S4 are solvable, and Z60 is commutative.

  Attributes:
    group: A key of `GROUPS`.
    generators: The number of elements that a row is drawn from, the same ones
      in all rows and without the identity; None for all elements.
  """

  name: ClassVar[str] = "group_words"

  group: str = "S3"
  generators: int | None = None

  @property
  def vocab_size(self) -> int:
    """The number of elements."""
    return len(table(self.group))

  def check(self) -> None:
    """See `SequenceTask.check`."""
    super().check()
    if self.group not in GROUPS:
      raise ValueError(
        f"group must be one of {', '.join(GROUPS)}, got {self.group!r}"
      )
    if self.generators is not None:
      check_at_least(1, generators=self.generators)
      if self.generators >= self.vocab_size:
        raise ValueError(
          f"generators must be below the {self.vocab_size} elements of"
          f" {self.group}, got {self.generators}"
        )

  def states(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """See `StateTracking.states`."""
    products = table(self.group)
    drawn = rng.integers(0, len(products), self.length)
    if self.generators is not None:
      others = np.random.default_rng(0).permutation(np.arange(1, len(products)))
      drawn = others[rng.integers(0, self.generators, self.length)]
    states = itertools.accumulate(drawn, lambda state, a: products[a, state])
    return drawn, np.fromiter(states, np.int32, self.length)
