"""Labels of state tracking and formal languages, by brute force."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from train.data.tasks.languages import AnBn, BracketedArithmetic, Dyck
from train.data.tasks.state_tracking import (
  GROUPS,
  CycleNavigation,
  GroupWords,
  ModularArithmetic,
  Parity,
  table,
)

TASKS = [
  Parity(length=12),
  CycleNavigation(length=12, places=7),
  ModularArithmetic(length=13),
  *[GroupWords(length=16, group=group) for group in GROUPS],
  GroupWords(length=9, group="S5", generators=3),
  GroupWords(length=24, documents=4),
  AnBn(length=60, most=9),
  Dyck(length=30, depth=3),
  BracketedArithmetic(length=30),
]
named = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def rows(task, count=50):
  task = dataclasses.replace(task, train_examples=count)
  return list(task.generate("train"))


@named
def test_rows_are_examples_and_follow_from_the_settings(task):
  first, again = rows(task), rows(task)
  other = rows(dataclasses.replace(task, seed=1))
  held_out = list(task.generate("validation"))[:50]
  for row, same in zip(first, again, strict=True):
    np.testing.assert_array_equal(row["inputs"], same["inputs"])
    for name in ("inputs", "targets"):
      assert row[name].shape == (task.length,)
      assert row[name].dtype == np.int32
      assert 0 <= row[name].min() <= row[name].max() < task.vocab_size
    assert row["weights"].dtype == np.float32

  def distinct(some):
    return {row["inputs"].tobytes() for row in some}

  assert len(distinct(first) & distinct(other)) < 5
  assert len(distinct(first) & distinct(held_out)) < 5


@named
def test_rows_of_the_validation_may_be_longer(task, tmp_path):
  task = dataclasses.replace(
    task,
    data_dir=str(tmp_path),
    train_examples=3,
    validation_examples=2,
    validation_length=41,
  )
  assert task.open("train")[0]["inputs"].shape == (task.length,)
  assert task.open("validation")[0]["inputs"].shape == (41,)
  assert task.read_only().open("validation")[1]["targets"].shape == (41,)
  assert task.at_length(20).open("validation")[0]["inputs"].shape == (20,)


def test_parity_counts_ones():
  for row in rows(TASKS[0]):
    for place, target in enumerate(row["targets"]):
      assert target == list(row["inputs"][: place + 1]).count(1) % 2


def test_navigation_walks():
  task = TASKS[1]
  for row in rows(task):
    place = 0
    for step, target in zip(row["inputs"], row["targets"], strict=True):
      place = (place + {0: 0, 1: 1, 2: -1}[step]) % task.places
      assert target == place


def test_arithmetic_is_that_of_python():
  task = TASKS[2]
  words = [*map(str, range(5)), "+", "-", "*"]
  for row in rows(task):
    for place in range(0, task.length, 2):
      text = "".join(words[token] for token in row["inputs"][: place + 1])
      assert row["targets"][place] == eval(text) % task.modulus
    assert row["weights"].tolist() == [1.0, 0.0] * 6 + [1.0]
  last = dataclasses.replace(task, every_prefix=False, length=14)
  assert rows(last)[0]["weights"].tolist() == [0.0] * 12 + [1.0, 0.0]


def test_bracketed_arithmetic_is_that_of_python():
  task = TASKS[-1]
  words = ["", *map(str, range(5)), "+", "-", "*", "(", ")", "="]
  for row in rows(task):
    text = "".join(words[token] for token in row["inputs"])
    assert text.endswith("=") and "=" not in text[:-1]
    assert row["targets"][-1] - 1 == eval(text[:-1]) % task.modulus
    assert np.flatnonzero(row["weights"]).tolist() == [task.length - 1]


@pytest.mark.parametrize(("group", "size"), [("S3", 3), ("S4", 4), ("A5", 5)])
def test_words_of_permutations_move_objects(group, size):
  elements = list(itertools.permutations(range(size)))
  if group == "A5":
    elements = [p for p in elements if round(np.linalg.det(np.eye(5)[list(p)]))
                == 1]  # fmt: skip
  assert len(elements) == len(table(group))
  for row in rows(GroupWords(length=9, group=group), 20):
    objects = list(range(size))
    for token, target in zip(row["inputs"], row["targets"], strict=True):
      objects = [elements[token][place] for place in objects]
      assert elements[target] == tuple(objects)


@pytest.mark.parametrize("group", GROUPS)
def test_tables_are_groups(group):
  products = table(group)
  size = len(products)
  np.testing.assert_array_equal(products[0], np.arange(size))
  np.testing.assert_array_equal(products[:, 0], np.arange(size))
  # Each row is a permutation, and a few random triples associate.
  assert (np.sort(products, 1) == np.arange(size)).all()
  a, b, c = np.random.default_rng(0).integers(0, size, (3, 200))
  left, right = products[products[a, b], c], products[a, products[b, c]]
  np.testing.assert_array_equal(left, right)
  commutes = bool((products == products.T).all())
  assert commutes == group.startswith("Z")


def test_words_of_few_generators_use_no_other():
  found = {int(x) for row in rows(TASKS[-5]) for x in row["inputs"]}
  assert len(found) == 3 and 0 not in found


def test_documents_of_a_row_start_anew():
  task = dataclasses.replace(TASKS[-4], validation_length=40)
  task = dataclasses.replace(task, train_examples=50)
  for row in task.read_only().open("train"):
    np.testing.assert_array_equal(row["segment_ids"], np.arange(24) // 6)
    for start in range(0, 24, 6):
      state = 0
      for place in range(start, start + 6):
        state = table("S3")[row["inputs"][place], state]
        assert row["targets"][place] == state
  row = task.read_only().open("validation")[0]
  assert len(row["inputs"]) == 40 and not row["segment_ids"].any()


def test_words_of_a_and_b_are_complete():
  for row in rows(TASKS[-3]):
    tokens = [*row["inputs"], row["targets"][-1]]
    text = "".join("^ab"[token] for token in tokens)
    np.testing.assert_array_equal(row["targets"], tokens[1:])
    *whole, last = text[1:].split("^")
    assert whole
    for word in whole:
      assert len(word) % 2 == 0 and word == "a" * (len(word) // 2) + "b" * (
        len(word) // 2
      )
    assert re.fullmatch("a*b*", last) and last.count("b") <= last.count("a")
    assert ["^ab"[x] == "b" for x in row["inputs"]] == list(row["weights"] > 0)


def test_brackets_close_the_latest_one():
  task = TASKS[-2]
  for row in rows(task):
    text = "".join("?([)]"[token] for token in row["inputs"])
    for place in range(task.length):
      left = text[: place + 1]
      while (shorter := left.replace("()", "").replace("[]", "")) != left:
        left = shorter
      assert len(left) <= task.depth
      assert set(left) <= set("([")
      expected = {"(": 3, "[": 4}[left[-1]] if left else 0
      assert row["targets"][place] == expected


def best_guess(task):
  """The accuracy of the best guess from the current token alone."""
  counts = np.zeros((task.vocab_size, task.vocab_size))
  for row in rows(task, 2000):
    np.add.at(counts, (row["inputs"], row["targets"]), row["weights"])
  return counts.max(1).sum() / counts.sum()


@pytest.mark.parametrize(
  ("task", "chance"),
  [
    (Parity(length=12), 0.5),
    (CycleNavigation(length=40), 0.2),
    (GroupWords(length=20), 1 / 6),
  ],
  ids=str,
)
def test_a_token_does_not_tell_its_target(task, chance):
  # The state after the first token is that token, or follows from it.
  task = dataclasses.replace(task, every_prefix=False)
  assert task.chance() == pytest.approx(chance, abs=0.04)
  assert best_guess(task) == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize(
  ("task", "message"),
  [
    (GroupWords(group="S6"), "group must be one of S3, .*, got 'S6'"),
    (GroupWords(generators=6), "generators must be below the 6 elements of S3"),
    (CycleNavigation(places=2), "places must be at least 3, got 2"),
    (ModularArithmetic(modulus=1), "modulus must be at least 2"),
    (Parity(length=9, documents=2), "documents must divide length = 9, got 2"),
    (Parity(length=0), "length must be at least 1"),
    (AnBn(length=3), "length must be at least 4"),
    (Dyck(depth=0), "depth must be at least 1"),
  ],
  ids=str,
)
def test_mistakes_are_named(task, message):
  with pytest.raises(ValueError, match=message):
    task.open("train")
