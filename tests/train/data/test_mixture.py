import dataclasses

import numpy as np
import pytest

from train.data import Batches, Mixture
from train.data.dataset import THREADS
from train.data.mixture import Interleave


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Example i is the number `first` + i."""

  first: int = 0
  size: int = 10
  vocab_size: int = 10_000
  dtype: str = "int32"

  def open(self, split):
    return self

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    assert 0 <= index < self.size
    return {
      "inputs": np.full(1, self.first + index, self.dtype),
      "weights": np.ones(1, np.float32),
    }

  def encode(self, content):
    return [*content]

  def decode(self, tokens):
    return bytes(tokens)


THREE = (Numbers(0, 30), Numbers(1000, 7), Numbers(2000, 100))


def take(batches, count):
  return np.stack([next(batches)["inputs"][:, 0] for _ in range(count)])


def mixed(weights, sources=THREE, split="train"):
  return Mixture(sources=sources, weights=weights).open(split)


@dataclasses.dataclass(frozen=True)
class Points:
  """Examples that are no tokens: nested arrays, without weights."""

  first: int = 0
  size: int = 10
  width: int = 2
  sequence = ("inputs",)

  def open(self, split):
    return self

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    place = np.full((3, self.width), self.first + index, np.float32)
    return {
      "inputs": {"place": place, "more": (place[:, 0],)},
      "targets": np.float32(index),
    }


def test_data_that_are_no_tokens_are_mixed_too():
  sources = (Points(0, 20), Points(1000, 30))
  found = mixed((1, 1), sources)
  assert len(found) == 50 and found.sequence == ("inputs",)
  batch = next(Batches(found, 8, seed=3))
  inputs = batch["inputs"]
  assert inputs["place"].shape == (8, 3, 2) and batch["targets"].shape == (8,)
  np.testing.assert_array_equal(inputs["place"][..., 0], inputs["more"][0])
  assert (inputs["place"][:, 0, 0] >= 1000).sum() == 4
  np.testing.assert_array_equal(batch["weights"], 1)
  with pytest.raises(ValueError, match="source 1 of the mixture has other exa"):
    mixed((1, 1), (Points(0, 20), Points(0, 20, 3)))
  with pytest.raises(
    ValueError, match=r"another vocabulary .* instead of None"
  ):
    mixed((1, 1), (Points(0, 20), Numbers(0, 20)))


WEIGHTS = [
  (0.7, 0.2, 0.1),
  (1, 1, 1),
  (3, 1, 2),
  (0.333, 0.334, 0.333),
  (1e-4, 1, 0.123457),
  (1, 700, 400),
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_exact_in_the_long_run_and_close_in_each_batch(weights):
  dataset = mixed(weights)
  share = np.array(weights) / sum(weights)
  found = take(Batches(dataset, 32, seed=3), 200) // 1000
  counts = np.stack([(found == k).sum(axis=1) for k in range(3)], axis=1)
  assert np.abs(counts - 32 * share).max() < 2
  total = np.cumsum(counts, axis=0)
  want = share * 32 * np.arange(1, 201)[:, None]
  assert np.abs(total - want).max() < 2


def test_each_source_has_its_own_epochs():
  found = take(Batches(mixed((0.5, 0.3, 0.2)), 10, seed=0), 60).ravel()
  for source, size in enumerate((30, 7, 100)):
    own = found[found // 1000 == source] - 1000 * source
    epochs = own[: len(own) // size * size].reshape(-1, size)
    assert len(epochs) >= 1
    for epoch in epochs:
      assert sorted(epoch) == list(range(size))
    if source == 1:
      assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
      assert tuple(epochs[0]) != tuple(range(size))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_mixture_resumes_anywhere_in_any_number_of_processes(count):
  whole = take(Batches(mixed((5, 2, 1)), 8, seed=1), 30)
  assert (take(Batches(mixed((5, 2, 1)), 8, seed=2), 30) != whole).any()
  for start in (0, 1, 7, 20):
    parts = [
      take(
        Batches(
          mixed((5, 2, 1)),
          8,
          seed=1,
          rows=range(i * 8 // count, (i + 1) * 8 // count),
          position=8 * start,
        ),
        30 - start,
      )
      for i in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[start:])


def test_a_validation_reads_each_example_once_and_any_part_is_a_sample():
  batches = Batches(mixed((9, 1, 1)), 8, seed=0, shuffle=False, one_pass=True)
  found = [batch["inputs"][batch["weights"] > 0].tolist() for batch in batches]
  flat = [number for batch in found for number in batch]
  assert sorted(flat) == [*range(30), *range(1000, 1007), *range(2000, 2100)]
  first = np.array(flat[:64]) // 1000
  counts = np.bincount(first, minlength=3)
  assert np.abs(counts - 64 * np.array([30, 7, 100]) / 137).max() < 2


def test_a_mixture_of_mixtures():
  inner = Mixture(sources=THREE[:2], weights=(3, 1))
  dataset = mixed((1, 1), (inner, THREE[2]))
  found = take(Batches(dataset, 64, seed=5), 50) // 1000
  share = [(found == k).mean() for k in range(3)]
  np.testing.assert_allclose(share, [0.375, 0.125, 0.5], atol=1e-3)


@pytest.mark.parametrize(
  "counts", [(1,), (1, 1), (5, 3), (1000, 1), (7, 1300, 512), (511, 513)]
)
def test_interleaving_has_each_number_once(counts):
  total = sum(counts)
  sources, numbers = Interleave(counts)(np.arange(3 * total))
  for source, count in enumerate(counts):
    assert list(numbers[sources == source]) == list(range(3 * count))
  # In any order, one by one.
  interleave = Interleave(counts)
  for place in np.random.default_rng(0).integers(0, 3 * total, 20):
    one = interleave(np.array([place]))
    assert (one[0][0], one[1][0]) == (sources[place], numbers[place])


def test_huge_periods_need_no_table():
  counts = (10**12, 3 * 10**12 + 1)
  places = np.array([0, 10**12, 4 * 10**12, 9 * 10**12])
  sources, numbers = Interleave(counts)(places)
  share = np.array(counts) / sum(counts)
  assert np.abs(numbers - places * share[sources]).max() < 2


def test_the_digest_is_of_all_sources():
  first = mixed((1, 1, 1)).digest()
  assert first == mixed((1, 1, 1)).digest()
  assert first != mixed((), (*THREE[:2], Numbers(2000, 99))).digest()


@pytest.mark.parametrize(
  ("limits", "expected"),
  [((0, 0), 0), ((0, 3), 3), ((1, 3), 1), ((None, 0), THREADS), ((None, 1), 1)],
)
def test_the_strictest_source_says_how_many_threads_may_read(limits, expected):
  sources = [Numbers() for _ in limits]
  for source, limit in zip(sources, limits, strict=True):
    if limit is not None:
      object.__setattr__(source, "threads", limit)
  assert mixed((), tuple(sources)).threads == expected


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, "needs sources and one weight for each, got 0 sources"),
    ({"sources": THREE, "weights": (1,)}, "got 3 sources and 1 weights"),
    ({"sources": THREE, "weights": (1, 0, 1)}, r"positive, got \(1, 0, 1\)"),
    ({"sources": THREE, "weights": (1, 1e-300, 1)}, "too many digits.*round"),
    (
      {"sources": (*THREE, Numbers(vocab_size=5))},
      "source 3 .* another vocabulary than source 0: 5 instead of 10000",
    ),
    (
      {"sources": (*THREE, Numbers(dtype="int64"))},
      r"source 3 .* other examples than source 0: .*int64\[1\]",
    ),
    ({"sources": (*THREE, Numbers(size=0))}, "source 3 .* has no examples"),
  ],
)
def test_mistakes_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    Mixture(**settings).open("train")
