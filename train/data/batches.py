"""Batches in a random order that can resume at any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from train.data.dataset import Dataset, Example, check_at_least, example
from train.data.order import order_of


class Batches(Iterator[Example]):
  """Stacks examples into batches, endlessly or for one pass.

  The examples of all epochs form one stream. Epoch e holds every example once,
  in an order that depends only on `seed` and e. Batch n holds the examples
  n * batch_size, ..., (n + 1) * batch_size - 1 of the stream, so a batch may
  begin in one epoch and end in the next. One number, `position`, gives the
  place in the stream. It does not depend on the number of processes: each
  process reads some rows of every batch.

  Yields dictionaries of arrays [len(rows), L].

  Args:
    dataset: the examples.
    batch_size: examples per batch, over all processes.
    seed: non-negative; determines the order of every epoch.
    shuffle: whether to shuffle; otherwise every epoch is in index order.
    rows: the rows of every batch to read, in [0, batch_size); None for all.
    position: where to start: an earlier value of `position`.
    one_pass: whether to end after the first epoch. Examples of weight zero fill
      the last batch, so that every example counts once.

  Raises:
    ValueError: if there are no examples, or an argument is out of range.
  """

  def __init__(
    self,
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    rows: Sequence[int] | None = None,
    position: int = 0,
    one_pass: bool = False,
  ):
    check_at_least(1, batch_size=batch_size)
    check_at_least(0, seed=seed, position=position)
    rows = range(batch_size) if rows is None else rows
    if not rows or min(rows) < 0 or max(rows) >= batch_size:
      raise ValueError(
        f"rows must be one or more of [0, {batch_size}), got {list(rows)}"
      )
    if not len(dataset):
      raise ValueError("the data set has no examples")
    self.dataset = dataset
    self._batch_size = batch_size
    self._order = order_of(dataset, (seed,) if shuffle else None)
    self._rows = np.asarray(rows, np.int64)
    self._position = position
    self._one_pass = one_pass

  @property
  def position(self) -> int:
    """Number of examples consumed so far by all processes together."""
    return self._position

  def __iter__(self) -> Batches:
    return self

  def __next__(self) -> Example:
    return stack(self.read(self.advance()))

  def advance(self) -> list[int | None]:
    """Moves on by a batch, without reading it.

    Returns:
      The index of the example of each row; None for a row of weight zero.

    Raises:
      StopIteration: the one pass has ended.
    """
    size = len(self.dataset)
    if self._one_pass and self._position >= size:
      raise StopIteration
    places = self._position + self._rows
    there = places[places < size] if self._one_pass else places
    found: list[int | None] = [*self._order(there).tolist()]
    self._position += self._batch_size
    if self._one_pass:
      self._position = min(self._position, size)
    return found + [None] * (len(places) - len(found))

  def read(self, indices: Sequence[int | None]) -> list[Example]:
    """Reads rows that `advance` has named; several threads may call it."""
    return [self._example(index) for index in indices]

  def _example(self, index: int | None) -> Example:
    if index is not None:
      return example(self.dataset, index)
    filler = example(self.dataset, 0)
    return {**filler, "weights": np.zeros_like(filler["weights"])}


def stack(examples: Sequence[Example]) -> Example:
  """Stacks the arrays of examples, which may be any pytrees."""
  # JAX takes a while to import; who only tokenises does without.
  import jax

  return jax.tree.map(lambda *rows: np.stack(rows), *examples)
