"""Multi-query associative recall: looking up values by keys seen earlier."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = ["Mqar"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mqar(SequenceTask):
  """Multi-query associative recall (Arora et al., 2023, arXiv:2312.04927).

  A row shows `num_pairs` keys, each followed by its value, then repeats some of
  the keys as queries. The target at a query is the value of its key; only these
  targets have weight. As in the paper's reference code:

    k1 v1 k2 v2 ... | 0 0 k2 0 k1 0 0 0 ...     (inputs)
                    | 0 0 v2 0 v1 0 0 0 ...     (targets)

  - Token 0 is the fill token. Keys are drawn from [1, vocab_size / 2) and
    values from [vocab_size / 2, vocab_size), both without repetition.
  - Queries are at even distances 2g after the pairs. The g of a row are drawn
    without repetition, with probability proportional to
    (g + 1) ** (power - 1): most queries come soon, a few late, as in natural
    text.
  - The value does not follow its query in the inputs.

  One difference from the reference: a row may query fewer than all keys.

  The other fields are those of `SequenceTask`; a row has at least two tokens
  per pair and per query.

  Attributes:
    vocab_size: Number of tokens: the fill token, keys and values.
    num_pairs: Pairs of key and value per row.
    num_queries: Queries per row; 0 to query all keys.
    power: Exponent a of the power law; 1 is uniform.
  """

  name: ClassVar[str] = "mqar"
  version: ClassVar[str] = "2.0.0"

  length: int = 128
  vocab_size: int = 256
  num_pairs: int = 8
  num_queries: int = 0
  power: float = 0.01

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    pairs, queries, first_value = self.num_pairs, self.queries, self._values
    keys = 1 + _choose(rng, np.ones(first_value - 1), pairs)
    values = first_value + _choose(
      rng, np.ones(self.vocab_size - first_value), pairs
    )
    space = self.length // 2 - pairs
    gaps = _choose(rng, np.arange(1, space + 1) ** (self.power - 1), queries)
    # The keys are in random order, so querying the first ones is random, too.
    places = 2 * (pairs + gaps)
    inputs = np.zeros(self.length, np.int32)
    targets = np.zeros_like(inputs)
    inputs[0 : 2 * pairs : 2] = keys
    inputs[1 : 2 * pairs : 2] = values
    inputs[places] = keys[:queries]
    targets[places] = values[:queries]
    weights = (targets != 0).astype(np.float32)
    return {"inputs": inputs, "targets": targets, "weights": weights}

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, num_pairs=self.num_pairs)
    check_at_least(0, num_queries=self.num_queries)
    if self.num_queries > self.num_pairs:
      raise ValueError(
        f"num_queries={self.num_queries} is more than"
        f" num_pairs={self.num_pairs}: a row queries each key at most once"
      )
    check_at_least(2 * (self.num_pairs + self.queries), length=self.length)
    check_at_least(2 * (self.num_pairs + 1), vocab_size=self.vocab_size)

  @property
  def queries(self) -> int:
    """Number of queries per row."""
    return self.num_queries or self.num_pairs

  @property
  def _values(self) -> int:
    """The first token that is a value."""
    return self.vocab_size // 2


def _choose(
  rng: np.random.Generator, weights: np.ndarray, count: int
) -> np.ndarray:
  """Draws `count` indices of `weights` without repetition.

  Uses exponential waiting times: the index with the shortest time is drawn with
  probability proportional to its weight, and so is the next among the rest.

  Args:
    rng: The source of randomness.
    weights: Positive, [n].
    count: Number of indices to draw, at most n.

  Returns:
    Indices in the order of drawing, [count].
  """
  clocks = rng.standard_exponential(len(weights)) / weights
  return np.argsort(clocks)[:count]
