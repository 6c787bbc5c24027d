"""Labels of recall, copying and ListOps, by brute force."""

import dataclasses

import numpy as np
import pytest

from train.data.tasks.listops import ListOps
from train.data.tasks.recall import (
  FuzzyRecall,
  InductionHeads,
  Needle,
  NoisyRecall,
  SelectiveCopying,
)

TASKS = [
  SelectiveCopying(length=40, count=5),
  InductionHeads(length=30),
  Needle(length=40, width=4),
  NoisyRecall(length=60),
  FuzzyRecall(length=60),
  ListOps(length=60),
]
named = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def rows(task, count=100):
  task = dataclasses.replace(task, train_examples=count)
  return list(task.generate("train"))


@named
def test_rows_are_examples_and_follow_from_the_settings(task):
  first, again = rows(task), rows(task)
  held_out = list(task.generate("validation"))[:100]
  for row, same in zip(first, again, strict=True):
    np.testing.assert_array_equal(row["inputs"], same["inputs"])
    for name in ("inputs", "targets"):
      assert row[name].shape == (task.length,)
      assert row[name].dtype == np.int32
      assert 0 <= row[name].min() <= row[name].max() < task.vocab_size
    assert row["weights"].dtype == np.float32 and row["weights"].any()
  contents = [{x["inputs"].tobytes() for x in some} for some in
              (first, held_out)]  # fmt: skip
  assert not contents[0] & contents[1]


def test_symbols_are_copied_in_order():
  task = TASKS[0]
  for row in rows(task):
    shown, asked = row["inputs"][:35], row["inputs"][35:]
    assert (asked == 1).all()
    assert [x for x in shown if x != 0] == list(row["targets"][35:])
    assert row["weights"].tolist() == [0.0] * 35 + [1.0] * 5


def test_the_token_after_the_special_one_returns():
  for row in rows(TASKS[1]):
    first, last = np.flatnonzero(row["inputs"] == 0)
    assert last == 29 and first < 28
    assert row["targets"][-1] == row["inputs"][first + 1]
    assert np.flatnonzero(row["weights"]).tolist() == [29]


def test_the_needle_is_found():
  for row in rows(TASKS[2]):
    first, last = np.flatnonzero(row["inputs"] == 0)
    needle = row["inputs"][first + 1 : first + 5]
    assert last == 36
    np.testing.assert_array_equal(row["targets"][36:], needle)
    np.testing.assert_array_equal(row["inputs"][37:], needle[:3])
    assert np.flatnonzero(row["weights"]).tolist() == [36, 37, 38, 39]


def test_values_follow_their_keys_in_noise():
  task = TASKS[3]
  noise = 0
  for row in rows(task):
    known = {}
    tokens = [*row["inputs"], row["targets"][-1]]
    for place in range(task.length):
      token, target = tokens[place], tokens[place + 1]
      assert row["targets"][place] == target
      assert row["weights"][place] == float(token in known)
      noise += token >= task.keys + task.values
      if token < task.keys:
        assert known.setdefault(token, target) == target
  assert noise / (100 * task.length) == pytest.approx(task.noise, abs=0.02)


def test_wide_values_follow_their_wide_keys():
  task = TASKS[4]
  for row in rows(task):
    tokens = [*row["inputs"], row["targets"][-1]]
    is_value = np.array(tokens) >= task.key_tokens
    known, key, value = {}, [], []
    for place, token in enumerate(tokens):
      if not is_value[place] and value:
        # A pair is complete.
        before = known.setdefault(tuple(key), tuple(value))
        assert before == tuple(value)
        key, value = [], []
      (value if is_value[place] else key).append(token)
      if is_value[place]:
        seen = tuple(key) in known
        assert row["weights"][place - 1] == float(seen)
    inside = is_value[1:]
    assert not row["weights"][~inside].any()


def evaluate(words):
  """The value of a list of ListOps, by rewriting its innermost lists."""
  stack = []
  for word in words:
    if word != "]":
      stack.append(word)
      continue
    arguments = []
    while isinstance(stack[-1], int):
      arguments.append(stack.pop())
    operator = stack.pop()
    assert len(arguments) >= 2
    ordered = sorted(arguments)
    middle = len(ordered) // 2
    stack.append({
      "MIN": ordered[0],
      "MAX": ordered[-1],
      "SM": sum(ordered) % 10,
      "MED": (ordered[middle] + ordered[~middle]) // 2,
    }[operator])  # fmt: skip
  (value,) = stack
  return value


def test_lists_have_their_values():
  task = TASKS[5]
  words = [None, *range(10), "MIN", "MAX", "MED", "SM", "]"]
  lengths = []
  for row in rows(task):
    expression = [words[token] for token in row["inputs"] if token]
    assert row["targets"][-1] == 1 + evaluate(expression)
    assert np.flatnonzero(row["weights"]).tolist() == [59]
    lengths.append(len(expression))
  assert 15 <= min(lengths) < 25 and 45 < max(lengths) <= 60


@pytest.mark.parametrize(
  ("task", "chance"),
  [(TASKS[0], 1 / 16), (TASKS[1], 1 / 15), (TASKS[2], 1 / 15)],
  ids=str,
)
def test_chance_is_a_guess_among_the_symbols(task, chance):
  assert task.chance() == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize(
  ("task", "message"),
  [
    (SelectiveCopying(length=15), "length must be at least 16, got 15"),
    (InductionHeads(length=2), "length must be at least 3, got 2"),
    (Needle(length=10), "length must be at least 11, got 10"),
    (NoisyRecall(noise=1), r"noise must be in \[0, 1\), got 1"),
    (FuzzyRecall(key_tokens=5), "key_tokens must be at least 6, got 5"),
    (ListOps(arguments=1), "arguments must be at least 2, got 1"),
    (ListOps(length=20, shortest=11), "at most L / 2 = 10, got 11"),
  ],
  ids=str,
)
def test_mistakes_are_named(task, message):
  with pytest.raises(ValueError, match=message):
    task.open("train")
