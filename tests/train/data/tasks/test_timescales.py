"""Tasks with a curriculum: labels by brute force, order, chance, resuming."""

import dataclasses

import numpy as np
import pytest

from train.data import Batches
from train.data.tasks import DelayedMatch, NParity

PARITY = NParity(length=20, stages=(2, 3, 7))
MATCH = DelayedMatch(length=40, stages=(1, 4, 9))
named = pytest.mark.parametrize(
  "task", [PARITY, MATCH], ids=lambda task: task.name
)


def rows(task, count=90, split="train"):
  task = dataclasses.replace(
    task, train_examples=count, validation_examples=count
  )
  return list(task.generate(split))


def difficulty(row):
  """N of a row, or its delay, found from its tokens."""
  if row["inputs"][0] >= 2 and row["inputs"][1:].max() < 2:
    return PARITY.stages[row["inputs"][0] - 2]
  places = np.flatnonzero(row["inputs"] < 2 * MATCH.symbols)
  return int(places[1] - places[0]) - 1


@named
@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_are_examples_and_follow_from_the_settings(task, split):
  for row, same in zip(rows(task, 90, split), rows(task, 90, split),
                       strict=True):  # fmt: skip
    np.testing.assert_array_equal(row["inputs"], same["inputs"])
    for name in ("inputs", "targets"):
      assert row[name].shape == (task.length,)
      assert row[name].dtype == np.int32
      assert 0 <= row[name].min() <= row[name].max() < task.vocab_size
    assert row["weights"].dtype == np.float32 and row["weights"].any()


def test_parity_of_the_last_bits():
  for row in [*rows(PARITY), *rows(PARITY, 30, "validation")]:
    count = difficulty(row)
    bits = row["inputs"][1:].tolist()
    for place in range(1, PARITY.length):
      window = bits[max(place - count, 0) : place]
      assert row["weights"][place] == float(len(window) == count)
      if len(window) == count:
        assert row["targets"][place] == window.count(1) % 2
    assert row["weights"][0] == 0


def test_probes_match_their_cues():
  symbols = MATCH.symbols
  for row in [*rows(MATCH), *rows(MATCH, 30, "validation")]:
    cue = asked = None
    for place, token in enumerate(row["inputs"]):
      assert row["weights"][place] == float(symbols <= token < 2 * symbols)
      if token < symbols:
        assert cue is None
        cue, asked = token, place + difficulty(row) + 1
      elif token < 2 * symbols:
        assert place == asked
        assert row["targets"][place] == int(token - symbols == cue)
        cue = None
    assert cue is None
    assert row["weights"].sum() == 40 // (difficulty(row) + 2)


@named
def test_stages_follow_each_other(task):
  first, second, last = task.stages
  found = [difficulty(row) for row in rows(task)]
  assert found == [first] * 30 + [second] * 30 + [last] * 30
  held_out = [difficulty(row) for row in rows(task, 20, "validation")]
  assert held_out == [last] * 20


@named
def test_a_cumulative_stage_has_all_difficulties_so_far(task):
  task = dataclasses.replace(task, cumulative=True)
  found = [difficulty(row) for row in rows(task, 300)]
  for stage in range(3):
    some = found[100 * stage : 100 * stage + 100]
    counts = [some.count(one) for one in task.stages]
    assert sum(counts[: stage + 1]) == 100
    assert min(counts[: stage + 1]) > 60 / (stage + 1)
  assert {difficulty(row) for row in rows(task, 20, "validation")} == {
    task.stages[-1]
  }


def test_rows_are_read_in_order_and_resume(tmp_path):
  """Files keep the order; the last stage repeats; a position is exact."""
  task = dataclasses.replace(
    PARITY, train_examples=31, validation_examples=5, data_dir=str(tmp_path)
  )
  generated = [row["inputs"] for row in task.generate("train")]
  # The last of three stages of 31 rows begins at row 21.
  expected = [*range(31), *range(21, 31), *range(21, 31)][:45]
  for opened in (task.open("train"), task.read_only().open("train")):
    for seed in (0, 1):
      batches = Batches(opened, 5, seed=seed)
      read = [next(batches)["inputs"] for _ in range(9)]
      for row, number in zip(np.concatenate(read), expected, strict=True):
        np.testing.assert_array_equal(row, generated[number])
      resumed = Batches(opened, 5, seed=seed, position=30)
      np.testing.assert_array_equal(next(resumed)["inputs"], read[6])
  stages = [difficulty({"inputs": x}) for x in generated]
  assert stages.count(7) == 10 and stages[20] == 3


@named
def test_chance_is_a_half(task):
  assert task.chance() == pytest.approx(0.5, abs=0.02)
  targets = [row["targets"][row["weights"] > 0].mean() for row in rows(task)]
  assert np.mean(targets) == pytest.approx(0.5, abs=0.03)


def test_no_single_token_tells_the_answer():
  """Given the token that is asked, and its place, both answers are likely."""
  for task in (PARITY, MATCH):
    seen = {}
    for row in rows(task, 400):
      for place in np.flatnonzero(row["weights"]):
        key = int(row["inputs"][place])
        seen.setdefault(key, []).append(int(row["targets"][place]))
    assert len(seen) == (2 if task is PARITY else task.symbols)
    for answers in seen.values():
      assert np.mean(answers) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
  ("task", "message"),
  [
    (NParity(stages=()), "stages must have at least one difficulty, got none"),
    (NParity(stages=(2, 0)), "each of stages must be at least 1, got 0"),
    (NParity(length=8, stages=(2, 8)), "length must be at least 9, got 8"),
    (NParity(train_examples=2), "train_examples must be at least 3, got 2"),
    (DelayedMatch(length=9, stages=(8,)), "length must be at least 10, got 9"),
    (DelayedMatch(symbols=1), "symbols must be at least 2, got 1"),
  ],
)
def test_settings_out_of_range(task, message):
  with pytest.raises(ValueError, match=message):
    task.read_only().open("train")
