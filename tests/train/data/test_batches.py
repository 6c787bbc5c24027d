import numpy as np
import pytest

from train.data import Batches


class Numbers:
  """Example i is a row of two tokens i, weighted 1 and 0.5."""

  vocab_size = 1000

  def __init__(self, size):
    self._size = size

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    assert 0 <= index < self._size
    row = np.full(2, index, np.int32)
    weights = np.array([1, 0.5], np.float32)
    return {
      "inputs": row,
      "targets": row + 1,
      "weights": weights,
      "segment_ids": np.zeros_like(row),
    }


def share(batch_size, index, count):
  """Returns the rows of process `index` of `count`."""
  size = batch_size // count
  return range(index * size, (index + 1) * size)


def take(batches, count):
  """Returns the numbers of the next `count` batches, [count, batch]."""
  return np.stack([next(batches)["inputs"][:, 0] for _ in range(count)])


def test_a_batch_stacks_whole_examples():
  batch = next(Batches(Numbers(9), 4, seed=0, shuffle=False))
  np.testing.assert_array_equal(batch["inputs"], [[i, i] for i in range(4)])
  np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
  np.testing.assert_array_equal(batch["weights"], [[1, 0.5]] * 4)
  assert {name: row.dtype.name for name, row in batch.items()} == {
    "inputs": "int32",
    "targets": "int32",
    "weights": "float32",
    "segment_ids": "int32",
  }


@pytest.mark.parametrize(("size", "batch_size"), [(12, 4), (10, 4), (3, 7)])
def test_every_epoch_holds_every_example_once(size, batch_size):
  stream = take(Batches(Numbers(size), batch_size, seed=3), 12).ravel()
  epochs = stream[: len(stream) // size * size].reshape(-1, size)
  assert len(epochs) > 1
  for epoch in epochs:
    assert sorted(epoch) == list(range(size))


def test_orders_differ_by_epoch_and_seed_and_by_nothing_else():
  size = 50
  first, second = take(Batches(Numbers(size), size, seed=1), 2)
  other = take(Batches(Numbers(size), size, seed=2), 1)[0]
  again = take(Batches(Numbers(size), 10, seed=1), 5).ravel()
  assert list(first) != list(range(size))
  assert list(first) != list(second)
  assert list(first) != list(other)
  assert list(first) == list(again)


def test_shuffling_is_even():
  counts = np.zeros((4, 4))
  for seed in range(2000):
    order = take(Batches(Numbers(4), 4, seed=seed), 1)[0]
    counts[order, range(4)] += 1
  # Five standard deviations of a binomial of 2000 tries at a quarter.
  assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [7, 8, 3])
def test_resuming_anywhere_continues_at_the_exact_example(size, shuffle):
  whole = Batches(Numbers(size), 4, seed=5, shuffle=shuffle)
  expected, positions = [], []
  for _ in range(9):
    positions.append(whole.position)
    expected.append(take(whole, 1)[0])
  assert positions == list(range(0, 36, 4))
  for start, position in enumerate(positions):
    later = Batches(
      Numbers(size), 4, seed=5, shuffle=shuffle, position=position
    )
    np.testing.assert_array_equal(take(later, 9 - start), expected[start:])
    assert later.position == 36


def test_any_rows_can_be_read_and_the_order_stays():
  whole = take(Batches(Numbers(10), 6, seed=0), 8)
  some = take(Batches(Numbers(10), 6, seed=0, rows=[0, 1, 4, 5]), 8)
  np.testing.assert_array_equal(some, whole[:, [0, 1, 4, 5]])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_together_read_what_one_process_reads(count):
  whole = take(Batches(Numbers(10), 6, seed=0), 8)
  parts = [
    take(
      Batches(Numbers(10), 6, seed=0, rows=share(6, index, count)),
      8,
    )
    for index in range(count)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_the_number_of_processes_may_change_on_resuming():
  whole = take(Batches(Numbers(10), 6, seed=0), 8)
  pair = [
    Batches(Numbers(10), 6, seed=0, rows=share(6, index, 2))
    for index in range(2)
  ]
  for part in pair:
    take(part, 3)
  assert pair[0].position == pair[1].position == 18
  parts = [
    take(
      Batches(
        Numbers(10),
        6,
        seed=0,
        rows=share(6, index, 3),
        position=pair[0].position,
      ),
      5,
    )
    for index in range(3)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[3:])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3, 8, 9, 11])
def test_one_pass_counts_every_example_once(size, count):
  seen = []
  lengths = set()
  for index in range(count):
    batches = list(
      Batches(
        Numbers(size),
        4,
        seed=0,
        shuffle=False,
        rows=share(4, index, count),
        one_pass=True,
      )
    )
    lengths.add(len(batches))
    for batch in batches:
      assert batch["inputs"].shape == (4 // count, 2)
      counted = batch["weights"].any(axis=1)
      seen += list(batch["inputs"][counted, 0])
  assert sorted(seen) == list(range(size))
  assert lengths == {-(-size // 4)}


def test_one_pass_ends_at_the_number_of_examples():
  batches = Batches(Numbers(5), 4, seed=0, one_pass=True)
  assert len(list(batches)) == 2
  assert batches.position == 5
  assert list(batches) == []


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"rows": []}, r"rows must be one or more of \[0, 4\), got \[\]"),
    ({"rows": [2, 4]}, r"rows must be one or more of \[0, 4\), got \[2, 4\]"),
    ({"rows": [-1]}, r"rows must be one or more of \[0, 4\), got \[-1\]"),
    ({"position": -1}, "position must be at least 0, got -1"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"dataset": Numbers(0)}, "no example"),
  ],
)
def test_mistakes_are_named(settings, message):
  settings = {"dataset": Numbers(5), "batch_size": 4, "seed": 0, **settings}
  with pytest.raises(ValueError, match=message):
    Batches(**settings)
