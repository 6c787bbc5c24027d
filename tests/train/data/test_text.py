import collections
import math
import os
import pathlib
import socket
import subprocess
import sys
import zlib

import numpy as np
import pytest

from train.data import Text, baselines, corpus
from train.data.dataset import SPLITS
from train.data.text import SEPARATOR, PackedBytes

DOCUMENTS = [b"alpha", b"\x00\xff", b"b", b"gamma gamma", b"de"]
TOKENS = sum(len(content) + 1 for content in DOCUMENTS)


def content_of(config, split):
  dataset = config.open(split)
  return dataset.content(0, len(dataset))


def pack_slowly(documents, length):
  """Packs token by token, following the documentation of `Text`."""
  stream = []
  for number, content in enumerate(documents):
    stream.append((SEPARATOR, number))
    stream.extend((byte, number) for byte in content)
  rows = []
  for begin in range(0, len(stream) - 1, length):
    row = {"inputs": [], "targets": [], "weights": [], "segment_ids": []}
    first = stream[begin][1]
    for place in range(begin, begin + length):
      if place + 1 < len(stream):
        target = stream[place + 1][0]
        row["inputs"].append(stream[place][0])
        row["targets"].append(target)
        row["weights"].append(0.0 if target == SEPARATOR else 1.0)
        row["segment_ids"].append(stream[place][1] - first)
        last = stream[place][1] - first
      else:
        row["inputs"].append(SEPARATOR)
        row["targets"].append(0)
        row["weights"].append(0.0)
        row["segment_ids"].append(last + 1)
    rows.append(row)
  return rows


@pytest.mark.parametrize(
  "length", [1, 2, 3, 5, 6, 7, TOKENS - 2, TOKENS - 1, TOKENS, 100]
)
def test_packing_equals_packing_token_by_token(length):
  dataset = PackedBytes(DOCUMENTS, length)
  expected = pack_slowly(DOCUMENTS, length)
  assert len(dataset) == len(expected)
  for index, row in enumerate(expected):
    got = dataset[index]
    assert {name: list(values) for name, values in got.items()} == row
    assert got["weights"].dtype == np.float32
    for name in ("inputs", "targets", "segment_ids"):
      assert got[name].dtype == np.int32


@pytest.mark.parametrize("length", [1, 4, 6, 9, 64])
def test_every_byte_is_predicted_exactly_once(length):
  dataset = PackedBytes(DOCUMENTS, length)
  rows = [dataset[index] for index in range(len(dataset))]
  predicted = [
    token
    for row in rows
    for token, weight in zip(row["targets"], row["weights"], strict=True)
    if weight
  ]
  assert (
    bytes(predicted) == b"".join(DOCUMENTS) == dataset.content(0, len(dataset))
  )


def test_each_row_begins_where_the_last_ended():
  dataset = PackedBytes(DOCUMENTS, 4)
  for index in range(len(dataset) - 1):
    assert dataset[index]["targets"][-1] == dataset[index + 1]["inputs"][0]


def test_there_is_no_row_after_the_last():
  dataset = PackedBytes(DOCUMENTS, 4)
  for index in (len(dataset), -1):
    with pytest.raises(IndexError, match=rf"no example {index} in"):
      dataset[index]


def test_changing_a_row_does_not_change_the_data():
  dataset = PackedBytes(DOCUMENTS, 5)
  before = {name: row.copy() for name, row in dataset[1].items()}
  for row in dataset[1].values():
    row += 1
  for name, row in dataset[1].items():
    np.testing.assert_array_equal(row, before[name])


def test_a_prompt_is_the_beginning_of_a_document():
  dataset = PackedBytes([b"hello"], 5)
  assert dataset.encode(b"hell") == list(dataset[0]["inputs"])
  content = bytes(range(256))
  assert dataset.decode(dataset.encode(content)) == content
  assert max(dataset.encode(content)) == dataset.vocab_size - 1
  assert (
    b"".join(dataset.decode([token]) for token in dataset.encode(b"\xc3\xa9"))
    == "é".encode()
  )


def write(folder, names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode() * 50)
  return folder


def names_of(path, held_out=0.2, held_out_bytes=10**9, pattern="*"):
  documents = corpus.find_documents(str(path), pattern)
  splits = corpus.divide(documents, held_out, held_out_bytes)
  return {
    split: [document.name for document in found]
    for split, found in splits.items()
  }


NAMES = [f"{'ab'[i % 2]}/{i}.txt" for i in range(60)]


def test_every_file_is_in_one_split(tmp_path):
  names = names_of(write(tmp_path, NAMES))
  assert sorted(names["train"] + names["validation"]) == sorted(NAMES)
  assert 3 <= len(names["validation"]) <= 25


def test_the_division_does_not_depend_on_the_folder(tmp_path):
  here = write(tmp_path / "here", NAMES)
  there = write(tmp_path / "there", reversed(NAMES))
  assert names_of(here) == names_of(there)
  rows = Text(length=32, path=str(here)).open("train")
  others = Text(length=32, path=str(there)).open("train")
  assert len(rows) == len(others)
  for index in range(len(rows)):
    np.testing.assert_array_equal(
      rows[index]["inputs"], others[index]["inputs"]
    )


def test_a_new_file_moves_no_other_between_splits(tmp_path):
  write(tmp_path, NAMES)
  before = names_of(tmp_path)
  write(tmp_path, [f"new/{i}.txt" for i in range(30)])
  after = names_of(tmp_path)
  for split in before:
    assert set(before[split]) <= set(after[split])


def test_the_limit_crops_only_what_is_held_out(tmp_path):
  write(tmp_path, NAMES)
  settings = {"length": 16, "path": str(tmp_path), "held_out": 0.2}
  whole = Text(**settings)
  less = Text(**settings, held_out_bytes=777)
  content = content_of(whole, "validation")
  assert len(content) > 777
  assert content_of(less, "validation") == content[:777]
  assert content_of(less, "train") == content_of(whole, "train")


@pytest.mark.parametrize("held_out", [1e-9, 1 - 1e-9])
def test_no_split_is_ever_empty(tmp_path, held_out):
  names = names_of(write(tmp_path, NAMES[:2]), held_out)
  assert sorted(names["train"] + names["validation"]) == sorted(NAMES[:2])
  assert len(names["train"]) == 1


@pytest.mark.parametrize(
  ("held_out", "limit", "tail"),
  [(0.25, 10**6, 25), (0.25, 10, 10), (1e-6, 10**6, 1), (0.9999, 10**6, 99)],
)
def test_the_tail_of_a_single_file_is_held_out(tmp_path, held_out, limit, tail):
  path = tmp_path / "book.txt"
  path.write_bytes(bytes(range(100)))
  config = Text(
    length=8, path=str(path), held_out=held_out, held_out_bytes=limit
  )
  assert content_of(config, "train") == bytes(range(100 - tail))
  assert content_of(config, "validation") == bytes(range(100 - tail, 100))


def test_only_files_that_match_the_pattern_are_read(tmp_path):
  write(tmp_path, ["a.txt", "b/c.txt", "d.md", ".git/e.txt", ".f.txt"])
  write(tmp_path, ["__pycache__/g.txt"])
  (tmp_path / "empty.txt").touch()
  names = names_of(tmp_path, pattern="*.txt")
  assert sorted(names["train"] + names["validation"]) == ["a.txt", "b/c.txt"]


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"path": "{}/nowhere"}, "no file or folder '.*nowhere'.*path"),
    (
      {"path": "{}/empty"},
      "empty' holds no non-empty file that matches.*path.*pattern",
    ),
    ({"path": "{}", "pattern": "*.zig"}, r"matches '\*.zig'"),
    ({"path": "{}/one"}, "one byte.*path"),
    ({"length": 0}, "length must be at least 1, got 0"),
    ({"held_out": 0.0}, "held_out must be between 0 and 1, got 0.0"),
    ({"held_out": 1.5}, "held_out must be between 0 and 1, got 1.5"),
    ({"held_out_bytes": 0}, "held_out_bytes must be at least 1"),
  ],
)
def test_mistakes_are_named(tmp_path, settings, message):
  write(tmp_path, ["a.txt"])
  (tmp_path / "empty").mkdir()
  (tmp_path / "one").write_bytes(b"1")
  if "path" in settings:
    settings = {**settings, "path": settings["path"].format(tmp_path)}
  with pytest.raises(ValueError, match=message) as caught:
    Text(**settings).open("train")
  assert "\n" not in str(caught.value)


def test_an_unknown_split_is_named():
  with pytest.raises(ValueError, match=r"split must be one of.*'test'"):
    Text().open("test")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  document = corpus.Document("gone", tmp_path / "gone", 0, 5)
  with pytest.raises(ValueError, match=r"cannot read .*gone"):
    document.read()


def test_the_default_is_the_standard_library_without_its_tests():
  documents = corpus.find_documents("", "*")
  names = {document.name for document in documents}
  assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= names
  for name in names:
    parts = pathlib.PurePosixPath(name).parts
    assert name.endswith(".py")
    assert not {"test", "tests", "site-packages", "__pycache__"} & set(parts)
  sizes = [len(Text().open(split)) for split in ("train", "validation")]
  assert sizes[0] > 10 * sizes[1] > 0


def test_baselines_of_the_standard_library_are_near_known_values():
  found = baselines(*map(Text().open, SPLITS))
  assert found["unigram"] == pytest.approx(4.6, abs=0.25)
  assert found["gzip"] == pytest.approx(1.95, abs=0.25)


def test_baselines_equal_hand_computed_ones(tmp_path):
  write(tmp_path, NAMES)
  (tmp_path / "zeros.bin").write_bytes(bytes(1000))
  config = Text(length=16, path=str(tmp_path), held_out=0.3)
  train = b"".join(
    (tmp_path / name).read_bytes() for name in names_of(tmp_path, 0.3)["train"]
  )
  held_out = b"".join(
    (tmp_path / name).read_bytes()
    for name in names_of(tmp_path, 0.3)["validation"]
  )
  counts = collections.Counter(train)
  bits = -sum(
    math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in held_out
  )
  packer = zlib.compressobj(9, zlib.DEFLATED, 31)
  size = len(packer.compress(held_out) + packer.flush())
  assert baselines(*map(config.open, SPLITS)) == pytest.approx(
    {"unigram": bits / len(held_out), "gzip": 8 * size / len(held_out)}
  )


def test_text_needs_no_tfds():
  program = (
    "import sys; from train.data import *; Mqar, Tfds;"
    "Text(path=sys.argv[1]).open('train')[0];"
    "print([m for m in sys.modules if m.startswith('tensorflow')])"
  )
  run = subprocess.run(
    [sys.executable, "-c", program, __file__],
    capture_output=True,
    text=True,
    check=True,
  )
  assert run.stdout.strip() == "[]"


@pytest.fixture
def corpus_of_three(tmp_path):
  """A corpus of two files and a folder with one more."""
  folder = tmp_path / "corpus"
  (folder / "inner").mkdir(parents=True)
  for name in ("a.txt", "b.txt", "inner/c.txt"):
    (folder / name).write_text(f"text of {name}")
  return folder


def refused_path(monkeypatch, function, path):
  """Makes a function of `os` fail on one path, as if permission was denied."""
  real = getattr(os, function)

  def refuse(where, *arguments, **options):
    if str(where) == str(path):
      raise PermissionError(13, "Permission denied", str(path))
    return real(where, *arguments, **options)

  monkeypatch.setattr(os, function, refuse)


def test_a_folder_that_cannot_be_read_is_named(corpus_of_three, monkeypatch):
  inner = corpus_of_three / "inner"
  refused_path(monkeypatch, "scandir", inner)
  with pytest.raises(
    ValueError, match=r"cannot read .*inner'.*denied"
  ) as error:
    Text(path=str(corpus_of_three)).open("train")
  assert "move it out" in str(error.value) and "\n" not in str(error.value)


def test_a_corpus_folder_that_cannot_be_listed_is_named(
  corpus_of_three, monkeypatch
):
  refused_path(monkeypatch, "scandir", corpus_of_three)
  with pytest.raises(ValueError, match=r"cannot read .*corpus'"):
    Text(path=str(corpus_of_three)).open("train")


@pytest.mark.parametrize("function", ["open", "stat"])
def test_a_file_that_cannot_be_opened_is_named(
  corpus_of_three, monkeypatch, function
):
  refused_path(monkeypatch, function, corpus_of_three / "inner" / "c.txt")
  with pytest.raises(ValueError, match=r"cannot read .*c\.txt'.*pattern"):
    for split in ("train", "validation"):
      Text(path=str(corpus_of_three)).open(split)


def test_a_link_to_nothing_is_named(corpus_of_three):
  (corpus_of_three / "d.txt").symlink_to("nowhere")
  with pytest.raises(ValueError, match=r"d\.txt' .*fix the link"):
    corpus.find_documents(str(corpus_of_three), "*")
  assert len(corpus.find_documents(str(corpus_of_three), "[abc].txt")) == 3


def test_pipes_sockets_and_devices_are_skipped(corpus_of_three, monkeypatch):
  os.mkfifo(corpus_of_three / "pipe.txt")
  with socket.socket(socket.AF_UNIX) as plug:
    # From inside, since the name of a socket must be short.
    monkeypatch.chdir(corpus_of_three)
    plug.bind("plug.txt")
  (corpus_of_three / "zeros.txt").symlink_to("/dev/zero")
  (corpus_of_three / "inner" / "loop").symlink_to("..")
  (corpus_of_three / "self.txt2").symlink_to(corpus_of_three / "a.txt")
  found = corpus.find_documents(str(corpus_of_three), "*")
  names = {document.name for document in found}
  assert names == {"a.txt", "b.txt", "inner/c.txt", "self.txt2"}


@pytest.mark.parametrize("kind", ["gone", "shorter", "pipe"])
def test_a_file_that_changes_while_it_is_read_is_named(corpus_of_three, kind):
  found = corpus.find_documents(str(corpus_of_three), "a.txt")
  path = corpus_of_three / "a.txt"
  if kind == "shorter":
    path.write_text("a")
  else:
    path.unlink()
  if kind == "pipe":
    os.mkfifo(path)
  with pytest.raises(ValueError, match=r"a\.txt'"):
    found[0].read()


def test_a_file_name_need_not_be_utf8(tmp_path):
  for name in (b"\xff\xfe.txt", b"b.txt"):
    with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
      file.write("text")
  data = Text(path=str(tmp_path))
  assert len(corpus.find_documents(str(tmp_path), "*")) == 2
  assert len(data.open("train").digest()) == 32


def test_a_digest_depends_on_all_bytes_and_their_documents():
  documents = [b"abcd", b"efgh"]
  digests = {
    PackedBytes(documents, 4, names="ab").digest(),
    PackedBytes([b"abcde", b"fgh"], 4, names="ab").digest(),
    PackedBytes(documents[::-1], 4, names="ab").digest(),
    PackedBytes([b"abcd\0efgh"], 4, names="a").digest(),
    PackedBytes([b"abcd", b"efgx"], 4, names="ab").digest(),
    PackedBytes(documents, 4, names="ac").digest(),
    PackedBytes(documents, 5, names="ab").digest(),
  }
  assert len(digests) == 7
  assert PackedBytes(iter(documents), 4, names="ab").digest() in digests
