import dataclasses
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from train.data import Mqar
from train.data.tasks import mqar

SMALL = Mqar(
  length=40,
  vocab_size=30,
  num_pairs=6,
  train_examples=300,
  validation_examples=70,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("recall"))
  return dataclasses.replace(SMALL, data_dir=folder)


@pytest.fixture(scope="module")
def rows(config):
  return list(config.open("train"))


def recall(inputs, pairs):
  """Computes the targets by looking up each token among the pairs before it."""
  shown = dict(
    zip(inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2], strict=True)
  )
  assert len(shown) == len(set(shown.values())) == pairs
  return [shown.get(token, 0) for token in inputs[2 * pairs :]]


def test_targets_are_the_values_shown_with_their_keys(config, rows):
  assert len(rows) == config.train_examples
  for row in rows:
    answers = recall(row["inputs"], config.num_pairs)
    split = 2 * config.num_pairs
    assert list(row["targets"][split:]) == answers
    assert not row["targets"][:split].any()
    asked = [float(answer != 0) for answer in answers]
    assert list(row["weights"]) == [0.0] * split + asked
    assert sum(asked) == config.num_pairs


def test_tokens_come_from_their_own_parts_of_the_vocabulary(config, rows):
  split = 2 * config.num_pairs
  keys = np.array([row["inputs"][0:split:2] for row in rows])
  values = np.array([row["inputs"][1:split:2] for row in rows])
  assert set(keys.ravel()) == set(range(1, 15))
  assert set(values.ravel()) == set(range(15, 30))
  rest = np.array([row["inputs"][split:] for row in rows])
  assert (rest[:, 1::2] == 0).all()
  assert ((rest != 0).sum(axis=1) == config.num_pairs).all()


def test_arrays_have_the_shapes_and_dtypes_of_examples(config, rows):
  for name, kind in {
    "inputs": "int32",
    "targets": "int32",
    "weights": "float32",
    "segment_ids": "int32",
  }.items():
    assert rows[0][name].shape == (config.length,)
    assert rows[0][name].dtype == kind
  assert not any(row["segment_ids"].any() for row in rows)
  assert config.open("train").vocab_size == config.vocab_size


def test_a_row_can_query_fewer_keys(tmp_path):
  config = dataclasses.replace(
    SMALL, num_queries=2, train_examples=20, data_dir=str(tmp_path)
  )
  for row in config.open("train"):
    answers = recall(row["inputs"], config.num_pairs)
    assert [t for t in row["targets"] if t] == [a for a in answers if a]
    assert row["weights"].sum() == 2


def test_examples_follow_from_the_settings(config, rows, tmp_path):
  elsewhere = dataclasses.replace(config, data_dir=str(tmp_path))
  for row, other in zip(rows, elsewhere.open("train"), strict=True):
    np.testing.assert_array_equal(row["inputs"], other["inputs"])


def contents(config, split):
  return {row["inputs"].tobytes() for row in config.open(split)}


def test_splits_and_seeds_and_rows_differ(config):
  train = contents(config, "train")
  validation = contents(config, "validation")
  assert (len(train), len(validation)) == (300, 70)
  assert not train & validation
  other = dataclasses.replace(config, seed=1)
  assert not train & contents(other, "train")


def test_each_setting_has_its_own_folder(config):
  changes = {
    "length": 42,
    "validation_length": 50,
    "vocab_size": 31,
    "num_pairs": 5,
    "num_queries": 3,
    "power": 0.5,
    "train_examples": 11,
    "validation_examples": 12,
    "seed": 2,
  }
  fields = {field.name for field in dataclasses.fields(Mqar)}
  assert set(changes) == fields - {"data_dir"}
  config.open("train")
  root = pathlib.Path(config.data_dir, "mqar")
  before = set(root.iterdir())
  for name, value in changes.items():
    changed = dataclasses.replace(config, **{name: value})
    changed.open("train")
    after = set(root.iterdir())
    assert len(after) == len(before) + 1, name
    before = after


def test_stored_examples_are_not_generated_again(config, rows, monkeypatch):
  monkeypatch.setattr(Mqar, "generate", None)
  np.testing.assert_array_equal(
    config.open("train")[7]["inputs"], rows[7]["inputs"]
  )


def test_an_interruption_leaves_no_incomplete_data(tmp_path, monkeypatch):
  config = dataclasses.replace(SMALL, data_dir=str(tmp_path))
  generate = Mqar.generate

  def stop_early(settings, split):
    yield from itertools.islice(generate(settings, split), 30)
    raise KeyboardInterrupt

  monkeypatch.setattr(Mqar, "generate", stop_early)
  with pytest.raises(KeyboardInterrupt):
    config.open("train")
  monkeypatch.setattr(Mqar, "generate", generate)
  assert len(config.open("train")) == 300


def test_two_processes_can_generate_the_same_data(tmp_path, monkeypatch):
  config = dataclasses.replace(SMALL, data_dir=str(tmp_path))
  generate = Mqar.generate

  def be_overtaken(settings, split):
    if split == "validation":
      monkeypatch.setattr(Mqar, "generate", generate)
      assert len(config.open("train")) == 300
    yield from generate(settings, split)

  monkeypatch.setattr(Mqar, "generate", be_overtaken)
  assert len(config.open("train")) == 300


def test_queries_follow_the_power_law():
  config = dataclasses.replace(
    SMALL, length=24, num_pairs=4, num_queries=1, train_examples=8192
  )
  counts = np.zeros(8)
  for row in config.generate("train"):
    place = np.flatnonzero(row["targets"]).item()
    counts[(place - 8) // 2] += 1
  law = np.arange(1, 9) ** (config.power - 1)
  law /= law.sum()
  deviation = np.sqrt(8192 * law * (1 - law))
  assert (np.abs(counts - 8192 * law) < 5 * deviation).all()


def test_choices_are_drawn_without_repetition_in_proportion():
  weights = np.array([0.6, 0.3, 0.1])
  rng = np.random.default_rng(0)
  draws = np.array([mqar._choose(rng, weights, 2) for _ in range(25_600)])
  for first, second in itertools.permutations(range(3), 2):
    share = (draws == [first, second]).all(axis=1).mean()
    expected = weights[first] * weights[second] / (1 - weights[first])
    deviation = np.sqrt(expected * (1 - expected) / len(draws))
    assert abs(share - expected) < 5 * deviation


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"length": 23}, "length must be at least 24, got 23"),
    ({"num_queries": 7}, "num_queries=7 is more than num_pairs=6"),
    ({"vocab_size": 13}, "vocab_size must be at least 14, got 13"),
    ({"num_pairs": 0}, "num_pairs must be at least 1"),
    ({"validation_examples": 0}, "validation_examples must be at least 1"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
  ],
)
def test_mistakes_are_named(change, message, tmp_path):
  config = dataclasses.replace(SMALL, data_dir=str(tmp_path), **change)
  with pytest.raises(ValueError, match=message):
    config.open("train")
  assert not list(tmp_path.iterdir())


def test_the_smallest_row_and_vocabulary_work(tmp_path):
  config = dataclasses.replace(
    SMALL, length=24, vocab_size=14, data_dir=str(tmp_path)
  )
  for row in config.open("validation"):
    assert row["weights"][12:].tolist() == [1, 0] * 6


def test_prompts_are_numbers(config):
  dataset = config.open("train")
  tokens = dataset[0]["inputs"].tolist()
  assert dataset.encode(dataset.decode(tokens)) == tokens
  with pytest.raises(ValueError, match=r"numbers below 30.*'30'"):
    dataset.encode(b"3 30")


def test_tensorflow_is_not_imported(tmp_path):
  program = (
    "import sys; from train.data import Mqar;"
    "config = Mqar(train_examples=9, validation_examples=9,"
    " data_dir=sys.argv[1]);"
    "print(len(config.open('train')), config.open('validation')[3]);"
    "print('tensorflow_datasets' in sys.modules, 'tensorflow' in sys.modules)"
  )
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
    capture_output=True,
    text=True,
    check=True,
    env=dict(os.environ),
  )
  assert run.stdout.splitlines()[-1] == "True False"
  # One line says what is made; tfds itself, which speaks of downloads, does
  # not speak.
  assert run.stdout.count("generating the examples") == 1
  assert "ownload" not in run.stdout + run.stderr
