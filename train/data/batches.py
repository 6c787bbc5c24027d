"""Batches in a random order that can be taken up again anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from train.data.dataset import Dataset, Example, check_at_least


class Batches(Iterator[Example]):
  """Stacks examples to batches, for ever or for one pass.

  The examples of all epochs form one stream. Epoch e holds every example once,
  in an order that follows from `seed` and e alone; batch n is the examples
  n * batch_size, ..., (n + 1) * batch_size - 1 of the stream, and may begin in
  one epoch and end in the next. So the place in the stream is one number,
  `position`, and it means the same whatever the number of processes: of every
  batch, process i takes the i-th of `process_count` equal parts.

  Yields dictionaries of arrays [batch_size / process_count, L].

  Args:
    dataset: the examples.
    batch_size: examples a batch, over all processes.
    seed: non-negative; gives the orders of the epochs.
    shuffle: whether to shuffle; without it every epoch is in index order.
    process_index: which part of every batch this process takes.
    process_count: how many processes share a batch.
    position: where to begin, as an earlier `position` said.
    one_pass: end after the first epoch. The last batch is filled up with
      examples whose weights are all zero, so that every example counts once.

  Raises:
    ValueError: if there is no example, or the sizes do not fit each other.
  """

  def __init__(
    self,
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    position: int = 0,
    one_pass: bool = False,
  ):
    check_at_least(1, batch_size=batch_size, process_count=process_count)
    check_at_least(0, seed=seed, position=position)
    if batch_size % process_count:
      raise ValueError(
        f"batch_size={batch_size} does not divide among"
        f" process_count={process_count} processes"
      )
    if not 0 <= process_index < process_count:
      raise ValueError(
        f"process_index must be in [0, {process_count}), got {process_index}"
      )
    if not len(dataset):
      raise ValueError("there is no example to make batches of")
    self._dataset = dataset
    self._batch_size = batch_size
    self._seed = seed
    self._shuffle = shuffle
    self._local_size = batch_size // process_count
    self._offset = process_index * self._local_size
    self._position = position
    self._one_pass = one_pass
    self._orders: dict[int, np.ndarray] = {}

  @property
  def position(self) -> int:
    """Examples of the stream consumed so far, by all processes together."""
    return self._position

  def __iter__(self) -> Batches:
    return self

  def __next__(self) -> Example:
    size = len(self._dataset)
    if self._one_pass and self._position >= size:
      raise StopIteration
    begin = self._position + self._offset
    rows = [
      self._example(place) for place in range(begin, begin + self._local_size)
    ]
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
      # Sorted raw bits, not `Generator.permutation`: numpy promises that a bit
      # generator's stream stays as it is, and does not for its methods, and a
      # run may be taken up under a later numpy.
      bits = np.random.Philox(np.random.SeedSequence([self._seed, epoch]))
      keys = bits.random_raw(len(self._dataset))
      # A batch meets at most the end of one epoch and the starts of the next
      # ones, in turn, so that one order at a time is enough.
      self._orders = {epoch: np.argsort(keys, kind="stable")}
    return self._orders[epoch]
