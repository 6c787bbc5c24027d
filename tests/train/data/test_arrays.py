import json

import numpy as np
import pytest

from train.config import serialize
from train.data import Arrays, Batches, Mixture, Records, Tokens
from train.data.dataset import digest

TOKENS = np.arange(12).reshape(4, 3)


def both(**arrays):
  return Arrays(train=arrays, validation={k: x[:2] for k, x in arrays.items()})


def saved_and_loaded(config):
  return serialize.from_json(json.loads(json.dumps(serialize.to_json(config))))


def test_tokens_get_weights_and_one_segment():
  dataset = both(inputs=TOKENS, targets=TOKENS + 1).open("train")
  assert len(dataset) == 4 and dataset.vocab_size == 13
  batch = next(Batches(dataset, 4, seed=0, shuffle=False))
  np.testing.assert_array_equal(batch["targets"], TOKENS + 1)
  assert {name: x.dtype.name for name, x in batch.items()} == {
    "inputs": "int32",
    "targets": "int32",
    "weights": "float32",
    "segment_ids": "int32",
  }
  assert batch["weights"].all() and not batch["segment_ids"].any()


def test_other_arrays_are_given_as_they_are():
  images = np.random.default_rng(0).random((4, 2, 2), np.float32)
  dataset = both(image=images, label=np.arange(4)).open("validation")
  assert len(dataset) == 2
  row = dataset[1]
  assert set(row) == {"image", "label"} and row["label"] == 1
  np.testing.assert_array_equal(row["image"], images[1])


def test_files_are_the_same_as_arrays_in_memory(tmp_path):
  names = {"inputs": TOKENS, "targets": TOKENS + 1}
  np.savez(tmp_path / "a.npz", **names)
  (tmp_path / "b").mkdir()
  for name, array in names.items():
    np.save(tmp_path / "b" / f"{name}.npy", array)
  digests = {both(**names).open("train").digest()}
  for path in ("a.npz", "b"):
    found = Arrays(train=str(tmp_path / path), validation=str(tmp_path / path))
    assert saved_and_loaded(found) == found
    digests.add(digest(found.open("train")))
  assert len(digests) == 1


def test_a_saved_config_keeps_the_digest_of_arrays_in_memory():
  config = both(inputs=TOKENS, targets=TOKENS)
  loaded = saved_and_loaded(config)
  assert loaded == config
  assert config != both(inputs=TOKENS + 1, targets=TOKENS)
  with pytest.raises(ValueError, match="memory of the program that trained"):
    loaded.open("validation")


def test_a_mixture_is_saved():
  config = Mixture(sources=(Tokens(path="a"), Arrays("b", "c")), weights=(2, 1))
  assert saved_and_loaded(config) == config


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, "no train arrays: set train to"),
    ({"train": {}}, r"the train arrays need one length, .* got \{\}"),
    ({"train": {"a": TOKENS, "b": TOKENS[:1]}}, "got {'a': 4, 'b': 1}"),
    ({"train": {"a": 1}}, "got {'a': -1}"),
    ({"train": "none.npz"}, "cannot read the arrays 'none.npz': No such file"),
    ({"train": {"a": TOKENS}, "vocab_size": -1}, "vocab_size must be at least"),
  ],
)
def test_mistakes_are_named(settings, message):
  settings = {"validation": {"a": TOKENS}, **settings}
  with pytest.raises(ValueError, match=message):
    Arrays(**settings).open("train")


def write_records(path, records):
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(path), "group_size:1")
  for record in records:
    writer.write(record)
  writer.close()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_array_record_files_by_path(tmp_path, dtype):
  rows = [np.array(row, dtype) for row in ([1, 2, 3], [4], [5, 6, 7, 8, 9])]
  records = [row.tobytes() for row in rows]
  write_records(tmp_path / "t-0.array_record", records[:2])
  write_records(tmp_path / "t-1.array_record", records[2:])
  files = str(tmp_path / "t-*.array_record")
  config = Records(files, files, length=4, vocab_size=10, dtype=dtype)
  dataset = config.open("train")
  assert len(dataset) == 3 and dataset.vocab_size == 11
  found = [dataset[index] for index in range(3)]
  assert [list(row["targets"] * (row["weights"] > 0)) for row in found] == [
    [1, 2, 3, 0],
    [4, 0, 0, 0],
    [5, 6, 7, 8],
  ]
  assert list(found[2]["inputs"]) == [10, 5, 6, 7]
  batch = next(Batches(dataset, 3, seed=0))
  assert batch["inputs"].shape == (3, 4)


def test_mistakes_of_records_are_named(tmp_path):
  (tmp_path / "a").write_bytes(b"text" * 100)
  settings = {"length": 4, "vocab_size": 10}
  with pytest.raises(ValueError, match="no file matches 'none': set train"):
    Records("none", **settings).open("train")
  with pytest.raises(ValueError, match="vocab_size must be at least 1"):
    Records("none").open("train")
  with pytest.raises(ValueError, match=r"dtype must be one of .*'int8'"):
    Records("none", dtype="int8", **settings).open("train")
  write_records(tmp_path / "b", [b"odd"])
  with pytest.raises(ValueError, match=r"record 0 has 3 bytes, .* dtype"):
    Records(str(tmp_path / "b"), **settings).open("train")[0]
  with pytest.raises(ValueError, match="cannot read the ArrayRecord files"):
    Records(str(tmp_path / "a"), **settings).open("train")
