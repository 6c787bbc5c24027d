import numpy as np
import pytest

from train.data import Batches, order


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 1000])
def test_a_computed_order_has_each_example_once_an_epoch(size):
  places = np.arange(3 * size)
  found = order.Computed(size, (7,))(places).reshape(3, size)
  for epoch in found:
    assert sorted(epoch) == list(range(size))
  if size > 16:
    assert list(found[0]) != list(found[1])
  # Place by place, or in one call.
  one = order.Computed(size, (7,))
  some = np.array([2 * size, size - 1, 0])
  np.testing.assert_array_equal(one(some), found.ravel()[some])


def test_a_computed_order_is_even():
  size, tries = 40, 3000
  counts = np.zeros((size, size))
  for seed in range(tries):
    counts[order.Computed(size, (seed,))(np.arange(size)), range(size)] += 1
  # Five standard deviations of a binomial.
  share = 1 / size
  limit = 5 * np.sqrt(tries * share * (1 - share))
  assert np.abs(counts - tries * share).max() < limit


def test_a_computed_order_of_many_is_fast_and_without_pattern():
  size = 10**10
  found = order.Computed(size, (3,))(np.arange(4096))
  assert len(set(found.tolist())) == 4096
  assert found.min() >= 0 and found.max() < size
  assert abs(found.mean() / size - 0.5) < 5 / np.sqrt(12 * 4096)
  # Neighbours are unrelated.
  near = np.corrcoef(found[:-1], found[1:])[0, 1]
  assert abs(near) < 5 / np.sqrt(4096)


class Many:
  """More examples than an order in memory has; example i is the number i."""

  vocab_size = 10

  def __len__(self):
    return 10**12

  def __getitem__(self, index):
    return {"inputs": np.array([index])}


def test_a_stream_of_very_many_resumes_in_any_number_of_processes():
  def take(count, position=0, **options):
    batches = Batches(Many(), 4, seed=1, position=position, **options)
    return np.stack([next(batches)["inputs"][:, 0] for _ in range(count)])

  whole = take(5)
  np.testing.assert_array_equal(take(3, position=8), whole[2:])
  halves = [take(5, rows=rows) for rows in ([0, 1], [2, 3])]
  np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
