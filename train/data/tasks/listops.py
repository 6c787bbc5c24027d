"""ListOps: the value of nested lists of operators and digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = ["OPERATORS", "ListOps"]

OPERATORS: dict[str, Callable[[list[int]], int]] = {
  "MIN": min,
  "MAX": max,
  "MED": lambda values: int(np.median(values)),
  "SM": lambda values: sum(values) % 10,
}
# Tokens: 0 fills, 1 to 10 are the digits, then the operators and "]".
_FIRST_OPERATOR = 11
_CLOSE = _FIRST_OPERATOR + len(OPERATORS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOps(SequenceTask):
  """The value of an expression such as [MAX 2 9 [MIN 4 7] 0], a digit.

  Nangia & Bowman 2018, arXiv:1804.06028, with their grammar: below the largest
  depth, an argument is a digit with probability 3/4 and a list otherwise, and a
  list has two arguments or more; as in Long Range Arena (Tay et al. 2020,
  arXiv:2011.04006), a row is an expression of a length between `shortest` and
  L. "[MAX" is one token. The target of the last token is the value; zeros fill
  the front of the row.

  Attributes:
    shortest: The fewest tokens of an expression; by default L / 4.
    depth: The most lists inside of one another.
    arguments: The most arguments of a list, at least 2.
  """

  name: ClassVar[str] = "listops"

  length: int = 128
  shortest: int | None = None
  depth: int = 10
  arguments: int = 10

  @property
  def vocab_size(self) -> int:
    """The fill token, digits, operators and the bracket."""
    return _CLOSE + 1

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, depth=self.depth)
    check_at_least(2, arguments=self.arguments)
    # A list has at least four tokens. The draws below find any length.
    check_at_least(4, length=self.length)
    if self.shortest is not None and not 1 <= self.shortest <= self.length // 2:
      raise ValueError(
        f"shortest must be at least 1 and at most L / 2 = {self.length // 2},"
        f" got {self.shortest}"
      )

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    shortest = self.shortest or self.length // 4
    while True:
      tokens: list[int] = []
      value = self._draw(rng, 1, tokens)
      if shortest <= len(tokens) <= self.length:
        break
    inputs = np.zeros(self.length, np.int32)
    inputs[-len(tokens) :] = tokens
    targets, weights = np.zeros_like(inputs), np.zeros(self.length, np.float32)
    targets[-1], weights[-1] = 1 + value, 1
    return {"inputs": inputs, "targets": targets, "weights": weights}

  def _draw(
    self, rng: np.random.Generator, depth: int, tokens: list[int]
  ) -> int:
    """Appends a list to `tokens` and returns its value.

    It stops early, with any value, once the tokens are more than a row.
    """
    kind = int(rng.integers(0, len(OPERATORS)))
    tokens.append(_FIRST_OPERATOR + kind)
    values = []
    for _ in range(int(rng.integers(2, self.arguments + 1))):
      if len(tokens) > self.length:
        return 0
      if depth < self.depth and rng.random() < 0.25:
        values.append(self._draw(rng, depth + 1, tokens))
      else:
        values.append(int(rng.integers(0, 10)))
        tokens.append(1 + values[-1])
    tokens.append(_CLOSE)
    return tuple(OPERATORS.values())[kind](values)
