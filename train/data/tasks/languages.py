"""Formal languages: tasks that need a counter or a stack."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = ["AnBn", "BracketedArithmetic", "Dyck"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnBn(SequenceTask):
  """The words a^n b^n, one after another: predict each next token.

  Token 0 begins a word, 1 is a and 2 is b. n is uniform in [1, `most`]. Only
  the tokens after the first b of a word have weight, since they alone follow
  from those before: b, until there are n of them, then 0. Weiss et al. 2018,
  "On the Practical Computational Power of Finite Precision RNNs",
  arXiv:1805.04908.

  Attributes:
    most: The largest n.
  """

  name: ClassVar[str] = "a_n_b_n"

  most: int = 20

  @property
  def vocab_size(self) -> int:
    """The beginning of a word, a and b."""
    return 3

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, most=self.most)
    check_at_least(4, length=self.length)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    words: list[int] = []
    # A row begins inside of no word, and may end inside of one.
    first = int(rng.integers(1, min(self.most, (self.length - 2) // 2) + 1))
    while len(words) <= self.length:
      n = int(rng.integers(1, self.most + 1)) if words else first
      words += [0, *[1] * n, *[2] * n]
    tokens = np.array(words[: self.length + 1], np.int32)
    inputs, targets = tokens[:-1], tokens[1:]
    weights = (inputs == 2).astype(np.float32)
    return {"inputs": inputs, "targets": targets, "weights": weights}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dyck(SequenceTask):
  """Well-formed brackets: which closing bracket may come next?

  Tokens 1 to `kinds` open, and the next `kinds` tokens close. The target is the
  closing bracket of the latest open one, or 0 if none is open. Suzgun et al.
  2019, "LSTM Networks Can Perform Dynamic Counting", arXiv:1906.03648, predict
  the same from sets of next tokens; with two kinds it is Dyck-2.

  Attributes:
    kinds: The number of kinds of brackets.
    depth: The most brackets that are open at a time.
  """

  name: ClassVar[str] = "dyck"

  kinds: int = 2
  depth: int = 8

  @property
  def vocab_size(self) -> int:
    """0, and the opening and closing brackets."""
    return 1 + 2 * self.kinds

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, kinds=self.kinds, depth=self.depth)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    inputs = np.zeros(self.length, np.int32)
    targets = np.zeros_like(inputs)
    closing: list[int] = []
    for place in range(self.length):
      opens = rng.random() < 0.5
      if not closing or (opens and len(closing) < self.depth):
        inputs[place] = rng.integers(1, self.kinds + 1)
        closing.append(inputs[place] + self.kinds)
      else:
        inputs[place] = closing.pop()
      targets[place] = closing[-1] if closing else 0
    return {"inputs": inputs, "targets": targets}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BracketedArithmetic(SequenceTask):
  """The value of a bracketed expression, modulo a number.

  An expression is a number or (expression operator expression), drawn so that
  it has at most L - 1 tokens; "=" follows it, and the target there is its
  value. Zeros fill the front of the row. Deletang et al. 2023,
  arXiv:2207.02098.

  Attributes:
    modulus: m. Numbers are tokens 1 to m, for 0 to m - 1; the tokens after them
      are +, -, *, (, ) and =.
  """

  name: ClassVar[str] = "bracketed_arithmetic"

  length: int = 40
  modulus: int = 5

  @property
  def vocab_size(self) -> int:
    """The fill token, numbers, operators, brackets and "="."""
    return self.modulus + 7

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(2, modulus=self.modulus, length=self.length)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    # An expression of n operators has 4 n + 1 tokens.
    most = (self.length - 2) // 4
    tokens, value = self._draw(rng, int(rng.integers(most // 2, most + 1)))
    inputs = np.zeros(self.length, np.int32)
    inputs[-1] = self.modulus + 6
    inputs[-1 - len(tokens) : -1] = tokens
    targets, weights = np.zeros_like(inputs), np.zeros(self.length, np.float32)
    targets[-1], weights[-1] = 1 + value, 1
    return {"inputs": inputs, "targets": targets, "weights": weights}

  def _draw(
    self, rng: np.random.Generator, operators: int
  ) -> tuple[list[int], int]:
    """Draws an expression of so many operators: its tokens and its value."""
    if operators == 0:
      number = int(rng.integers(0, self.modulus))
      return [1 + number], number
    on_the_left = int(rng.integers(0, operators))
    left, a = self._draw(rng, on_the_left)
    right, b = self._draw(rng, operators - 1 - on_the_left)
    kind = int(rng.integers(0, 3))
    value = (a + b, a - b, a * b)[kind] % self.modulus
    first = self.modulus + 1
    return [first + 3, *left, first + kind, *right, first + 4], value
