import importlib.util
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from train.data import Tfds
from train.data.tfds import NamedDataset

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 3), np.uint8)


class ToySequences(tfds.core.GeneratorBasedBuilder):
  """A data set with one feature of each kind that tfds stores."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features
    return tfds.core.DatasetInfo(
      builder=self,
      description="",
      features=features.FeaturesDict(
        {
          "number": features.Scalar(np.int32),
          "numbers": features.Sequence(np.int64),
          "tags": features.Sequence(features.ClassLabel(num_classes=5)),
          "bytes": features.Tensor(shape=(2, 3), dtype=np.uint8),
          "picture": features.Image(shape=(3, 4, 3)),
          "label": features.ClassLabel(num_classes=3),
          "text": features.Text(),
          "floats": features.Sequence(np.float32),
          "nested": features.Sequence({"inner": np.int32}),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(9),
      "test": self._generate_examples(2),
    }

  def _generate_examples(self, count):
    for index in range(count):
      file = io.BytesIO()
      Image.fromarray(IMAGES[index]).save(file, "png")
      file.seek(0)
      yield (
        index,
        {
          "number": index,
          "numbers": list(range(index)),
          "tags": [index % 5, 4],
          "bytes": np.full((2, 3), index, np.uint8),
          "picture": file,
          "label": 0,
          "text": "a",
          "floats": [0.5],
          "nested": [{"inner": 1}],
        },
      )


class ToyPlain(ToySequences):
  """A data set without sequences, stored without random access."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="",
      features=tfds.features.FeaturesDict({"label": np.int32}),
    )

  def _generate_examples(self, count):
    for index in range(count):
      yield index, {"label": index}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("tfds"))
  for builder in (ToySequences, ToyPlain):
    builder(data_dir=path, file_format="array_record").download_and_prepare()
  return path


@pytest.fixture(scope="module")
def stored(folder):
  source = tfds.data_source("toy_sequences", data_dir=folder, split="train")
  return list(source)


def open_toy(folder, split="train", **settings):
  settings = {"name": "toy_sequences", "data_dir": folder, **settings}
  return Tfds(**settings).open(split)


@pytest.mark.parametrize("length", [1, 3, 8, 20])
def test_integers_are_shifted_cropped_and_padded(folder, stored, length):
  dataset = open_toy(folder, feature="numbers", vocab_size=10, length=length)
  assert (len(dataset), dataset.vocab_size) == (9, 11)
  lengths = set()
  for index, example in enumerate(stored):
    row = dataset[index]
    numbers = [int(number) for number in example["numbers"]][:length]
    lengths.add(len(numbers))
    missing = length - len(numbers)
    assert list(row["targets"]) == numbers + [0] * missing
    assert list(row["weights"]) == [1] * len(numbers) + [0] * missing
    shifted = ([10, *numbers] + [10] * length)[: max(len(numbers), 1)]
    expected = shifted + [10] * (length - len(shifted))
    assert list(row["inputs"]) == expected
    segments = [0] * len(shifted) + [1] * (length - len(shifted))
    assert list(row["segment_ids"]) == segments
    assert [row[name].dtype.name for name in row] == [
      "int32",
      "int32",
      "float32",
      "int32",
    ]
  assert lengths == {min(index, length) for index in range(9)}


def test_images_are_their_bytes_in_order(folder, stored):
  dataset = open_toy(folder, feature="picture", length=36)
  assert dataset.vocab_size == 257
  for index, example in enumerate(stored):
    row = dataset[index]
    pixels = IMAGES[example["number"]].ravel()
    np.testing.assert_array_equal(row["targets"], pixels)
    np.testing.assert_array_equal(row["inputs"], [256, *pixels[:-1]])
    assert row["weights"].all()
    assert not row["segment_ids"].any()


def test_classes_and_bytes_give_the_vocab_size(folder):
  tags = open_toy(folder, feature="tags", length=2)
  assert tags.vocab_size == 6
  assert {int(tags[index]["targets"][1]) for index in range(9)} == {4}
  arrays = open_toy(folder, feature="bytes", length=6)
  assert arrays.vocab_size == 257
  assert open_toy(folder, feature="tags", vocab_size=9).vocab_size == 10


def test_a_split_can_be_a_part_of_a_tfds_split(folder):
  settings = {"feature": "numbers", "vocab_size": 10, "length": 9}
  whole = open_toy(folder, **settings)
  first = open_toy(folder, train_split="train[:4]", **settings)
  rest = open_toy(
    folder, "validation", validation_split="train[4:]", **settings
  )
  parts = [first[index] for index in range(len(first))]
  parts += [rest[index] for index in range(len(rest))]
  assert len(first) == 4
  for index, row in enumerate(parts):
    np.testing.assert_array_equal(row["targets"], whole[index]["targets"])
  assert len(parts) == len(whole)


def test_prompts_begin_with_the_start_token(folder):
  dataset = open_toy(folder, feature="numbers", vocab_size=10)
  assert dataset.encode(b"3 1\n4") == [10, 3, 1, 4]
  assert dataset.decode([10, 3, 1, 4]) == b"3 1 4 "
  with pytest.raises(ValueError, match=r"numbers below 10.*'x'"):
    dataset.encode(b"1 x")


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, r"several suitable features.*one of bytes, numbers, picture, tags$"),
    ({"feature": "label"}, r"no feature 'label'.*numbers \(Sequence\)"),
    ({"feature": "nested"}, "no feature 'nested'.*integers or an image"),
    ({"feature": "floats"}, "no feature 'floats'"),
    ({"feature": "text"}, "no feature 'text'"),
    ({"feature": "number"}, "no feature 'number'"),
    ({"name": "toy_plain"}, r"no feature that is.*label \(Tensor\)"),
    ({"feature": "numbers"}, "does not declare its number.*set vocab_size"),
    (
      {"feature": "tags", "train_split": "training"},
      "no split 'training': set train_split to one of train, test",
    ),
    ({"name": "mnisst"}, "no data set 'mnisst'.*did you mean .*mnist"),
    ({"name": "qqqqqqqq"}, "no data set 'qqqqqqqq'.*check `name`"),
    ({"name": "mnist"}, "'mnist' is not prepared in .*download=True"),
    ({"length": 0}, "length must be at least 1, got 0"),
  ],
)
def test_mistakes_are_named_in_one_line(folder, settings, message):
  with pytest.raises(ValueError, match=message) as caught:
    open_toy(folder, **settings)
  assert "\n" not in str(caught.value)
  assert not os.path.exists(os.path.join(folder, "mnist"))


def test_tokens_outside_the_vocabulary_are_named(folder):
  dataset = open_toy(folder, feature="numbers", vocab_size=5)
  with pytest.raises(ValueError, match=r"from 0 to [567].*\[0, 5\)"):
    for index in range(9):
      dataset[index]


def test_data_without_random_access_are_an_error(folder, monkeypatch):
  def refuse(*args, **kwargs):
    raise NotImplementedError("tfrecord has no random access")

  monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
  with pytest.raises(ValueError, match=r"array_record, which has no random"):
    open_toy(folder, feature="tags")


def test_data_are_prepared_if_download_is_true(tmp_path):
  settings = {"feature": "tags", "length": 2}
  with pytest.raises(ValueError, match=r"not prepared"):
    open_toy(str(tmp_path), **settings)
  dataset = open_toy(str(tmp_path), download=True, **settings)
  assert len(dataset) == 9
  assert len(open_toy(str(tmp_path), **settings)) == 9


@pytest.mark.skipif(
  importlib.util.find_spec("tensorflow") is not None,
  reason="with TensorFlow the preparation succeeds",
)
def test_a_preparation_that_needs_tensorflow_is_named(tmp_path, monkeypatch):
  generate = ToySequences._generate_examples

  def give_arrays(self, count):
    for index, example in generate(self, count):
      yield index, {**example, "picture": IMAGES[index]}

  monkeypatch.setattr(ToySequences, "_generate_examples", give_arrays)
  with pytest.raises(ValueError, match=r"needs TensorFlow.*data_dir"):
    open_toy(str(tmp_path), feature="tags", download=True)


def test_tensorflow_is_not_imported_and_no_code_is_needed(folder):
  program = (
    "import sys; from train.data import Tfds;"
    "data = Tfds(name='toy_sequences', feature='picture', length=36,"
    " data_dir=sys.argv[1]).open('train');"
    "print(len(data), data[0]['targets'].sum() > 0,"
    " 'tensorflow' in sys.modules)"
  )
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", program, folder],
    capture_output=True,
    text=True,
    check=True,
  )
  assert run.stdout.split() == ["9", "True", "False"]


def test_digests_of_other_splits_or_files_differ(folder):
  def made(split="train", **settings):
    return open_toy(folder, split, feature="bytes", **settings).digest()

  assert made() == made() != made("validation")
  assert made() != made(train_split="train[:90%]")
  source = [{"x": np.arange(3) + n} for n in range(4)]
  sizes = ((), (5,), (6,), (5, 6))
  digests = {NamedDataset(source, "x", 9, 3, x).digest() for x in sizes}
  assert len(digests) == 4
