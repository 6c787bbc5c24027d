"""Batches in a random order that can resume at any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from train.data.dataset import Dataset, Example, check_at_least


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
    self._dataset = dataset
    self._batch_size = batch_size
    self._seed = seed
    self._shuffle = shuffle
    self._rows = rows
    self._position = position
    self._one_pass = one_pass
    self._orders: dict[int, np.ndarray] = {}

  @property
  def position(self) -> int:
    """Number of examples consumed so far by all processes together."""
    return self._position

  def __iter__(self) -> Batches:
    return self

  def __next__(self) -> Example:
    size = len(self._dataset)
    if self._one_pass and self._position >= size:
      raise StopIteration
    rows = [self._example(self._position + row) for row in self._rows]
    self._position += self._batch_size
    if self._one_pass:
      self._position = min(self._position, size)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _example(self, place: int) -> Example:
    epoch, index = divmod(place, len(self._dataset))
    if self._one_pass and epoch:
      filler = self._dataset[0]
      return {**filler, "weights": np.zeros_like(filler["weights"])}
    if self._shuffle:
      index = self._order(epoch)[index]
    return self._dataset[index]

  def _order(self, epoch: int) -> np.ndarray:
    if epoch not in self._orders:
      # We sort raw bits instead of calling `Generator.permutation`: a run may
      # resume with a later numpy, and numpy keeps the streams of its bit
      # generators, but not those of `Generator` methods, across versions.
      bits = np.random.Philox(np.random.SeedSequence([self._seed, epoch]))
      keys = bits.random_raw(len(self._dataset))
      # A batch reads the end of one epoch, then the start of the next, so one
      # order at a time is enough.
      self._orders = {epoch: np.argsort(keys, kind="stable")}
    return self._orders[epoch]
