"""Tokens in files: written by the command, killed or not, and read again."""

import json
import time

import numpy as np
import pytest

from tests.train.data.tokenizing import (
  DOCUMENTS,
  command,
  files_of,
  predicted,
  rows_of,
  run,
  tokenized,
)
from train.data import (
  Tokens,
  corpus,
  documents,
  tokenize,
)
from train.data.text import PackedBytes


@pytest.mark.parametrize("length", [1, 4, 7, 100])
def test_rows_are_those_of_text_in_memory(tmp_path, length, no_processes):
  folder = tokenized(tmp_path)
  # Held-out tokens are the last documents.
  config = Tokens(path=folder, length=length, validation=folder)
  dataset = config.open("train")
  order = [d.read() for d in corpus.find_documents(str(tmp_path / "text"), "*")]
  expected = PackedBytes(order, length)
  assert len(dataset) == len(expected)
  for row, wanted in zip(rows_of(dataset), rows_of(expected), strict=True):
    for name in wanted:
      assert row[name].dtype == wanted[name].dtype
      np.testing.assert_array_equal(row[name], wanted[name])


@pytest.mark.parametrize("packing", ["end_to_end", "best_fit"])
@pytest.mark.parametrize("held_out", [0.01, 0.3, 0.6])
def test_every_token_is_predicted_once_in_one_split(
  tmp_path, no_processes, packing, held_out
):
  folder = tokenized(tmp_path)
  config = Tokens(path=folder, length=6, packing=packing, held_out=held_out)
  found = [predicted(config.open(split)) for split in ("train", "validation")]
  assert all(map(len, found))
  want = sorted(b"".join(DOCUMENTS))
  # A single document that is cut loses the prediction at the cut.
  assert len(want) - sum(map(len, found)) in (0, 1)
  if held_out > 0.01:
    assert sorted(np.concatenate(found)) == want


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bytes(tmp_path):
  text = tmp_path / "text"
  text.mkdir()
  rng = np.random.default_rng(0)
  for number in range(6):
    words = rng.integers(97, 123, (1 << 20) + number, np.uint8)
    (text / f"{number}.txt").write_bytes(words.tobytes())
  words = ("--shard_mb=1", "--processes=1")
  first = command(tmp_path, *words)
  out = tmp_path / "out"
  until = time.monotonic() + 60
  while not list(out.glob("shard-*.json")):
    assert first.poll() is None and time.monotonic() < until
    time.sleep(0.001)
  first.kill()
  first.communicate()
  assert not (out / "index.json").exists()
  with pytest.raises(ValueError, match=r"no .*index\.json: run python -m"):
    Tokens(path=str(out)).open("train")
  # As a kill in the middle of a shard leaves it.
  (out / ".shard-00003.bin.0123456789abcdef").write_bytes(b"half")
  kept = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*.json")}
  bins = {
    name: (out / name.replace("json", "bin")).stat().st_mtime_ns
    for name in kept
  }
  again = command(tmp_path, *words)
  output, errors = again.communicate(timeout=60)
  assert again.returncode == 0, errors
  assert "6 documents" in output and "100%" in errors
  for name, when in bins.items():
    assert (out / name.replace("json", "bin")).stat().st_mtime_ns == when
  resumed = files_of(out)
  out.rename(tmp_path / "old")
  whole = command(tmp_path, "--shard_mb=1", "--processes=2")
  _, errors = whole.communicate(timeout=60)
  assert whole.returncode == 0, errors
  assert files_of(out) == resumed
  assert len([name for name in resumed if name.endswith(".bin")]) == 6


def test_lines_and_json_lines_are_documents(tmp_path, no_processes):
  (tmp_path / "text").mkdir()
  texts = ["ab", "cde", "", "fg h"]
  lines = "\n".join(texts)
  (tmp_path / "text" / "a").write_text(lines)
  folder = run(tmp_path, "--documents=line")
  config = Tokens(path=folder, length=32, held_out=0.5)
  train, held = config.open("train"), config.open("validation")
  assert bytes(predicted(train).tolist()) == b"abcde"
  assert bytes(predicted(held).tolist()) == b"fg h"
  whole = "\n".join(json.dumps({"body": text}) for text in texts)
  (tmp_path / "text" / "a").write_text(whole)
  (tmp_path / "out").rename(tmp_path / "lines")
  run(tmp_path, "--documents=json", "--field=body")
  for name in ("shard-00000.bin", "shard-00000.starts"):
    same = [(tmp_path / x / name).read_bytes() for x in ("lines", "out")]
    assert same[0] == same[1]


def test_a_line_belongs_to_the_stretch_in_which_it_begins(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(b"one\ntwo\r\n\nthree\nfour")
  plan = documents.Plan("", "", "line", "", ())
  size = path.stat().st_size
  for edge in range(size + 1):
    parts = [
      corpus.Document("a", path, *ends) for ends in ((0, edge), (edge, size))
    ]
    found = [line for part in parts for line in documents.contents(plan, part)]
    assert found == [b"one", b"two", b"three", b"four"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_files_of_others_are_read(tmp_path, dtype):
  tokens = np.array([9, 1, 2, 3, 9, 4, 9, 5, 6, 7, 8], dtype)
  tokens.tofile(tmp_path / "a.bin")
  np.save(tmp_path / "b.npy", tokens)
  rows = [
    Tokens(
      path=str(tmp_path / name),
      length=4,
      dtype=dtype,
      vocab_size=10,
      separator=9,
      held_out=0.5,
    ).open("train")
    for name in ("a.bin", "b.npy")
  ]
  for dataset in rows:
    assert len(dataset) == 2
    row = dataset[0]
    np.testing.assert_array_equal(row["inputs"], tokens[:4])
    np.testing.assert_array_equal(row["targets"], tokens[1:5])
    np.testing.assert_array_equal(row["weights"], [1, 1, 1, 0])
    row = dataset[1]
    np.testing.assert_array_equal(row["inputs"], [9, 9, 9, 9])
    np.testing.assert_array_equal(row["segment_ids"], [0, 1, 1, 1])
  # A folder of both, end to end.
  both = Tokens(
    path=str(tmp_path),
    length=30,
    dtype=dtype,
    vocab_size=10,
    validation=str(tmp_path / "a.bin"),
  )
  row = both.open("train")[0]
  np.testing.assert_array_equal(row["inputs"][:21], [*tokens, *tokens[:-1]])
  np.testing.assert_array_equal(row["weights"], [1] * 21 + [0] * 9)
  assert len(both.open("validation")) == 1


def test_tokens_beyond_sixteen_bits(tmp_path):
  tokens = np.array([70_000, 3, 65_536, 2], np.uint32)
  tokens.tofile(tmp_path / "a.bin")
  config = Tokens(
    path=str(tmp_path / "a.bin"),
    length=3,
    dtype="uint32",
    vocab_size=70_001,
    validation=str(tmp_path / "a.bin"),
  )
  np.testing.assert_array_equal(config.open("train")[0]["inputs"], tokens[:3])
  wrong = Tokens(**{**vars(config), "dtype": "uint16", "vocab_size": 5})
  with pytest.raises(ValueError, match=r"outside \[0, 5\): set .*vocab_size"):
    wrong.open("train")[0]


@pytest.fixture
def tokenizer_file(tmp_path):
  """A byte-level BPE of a few merges, learnt here."""
  tokenizers = pytest.importorskip("tokenizers")
  inner = tokenizers.Tokenizer(tokenizers.models.BPE())
  inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
  inner.decoder = tokenizers.decoders.ByteLevel()
  inner.train_from_iterator(
    ["the cat and the hat é"] * 5,
    tokenizers.trainers.BpeTrainer(
      vocab_size=290,
      special_tokens=["<end>"],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  path = tmp_path / "bpe.json"
  inner.save(str(path))
  return path


@pytest.mark.parametrize("separator", ["", "<end>"])
def test_a_tokenizer_file_round_trips(
  tmp_path, no_processes, tokenizer_file, separator
):
  content = "the héat, the cat\n日本".encode()
  words = [f"--tokenizer={tokenizer_file}", f"--separator={separator}"]
  folder = tokenized(tmp_path, [content, b"the hat"], *words)
  config = Tokens(path=folder, length=64, validation=folder)
  dataset = config.open("train")
  # The vocabulary, and one more where the separator is new.
  inner = json.loads(tokenizer_file.read_text())["model"]["vocab"]
  assert dataset.vocab_size == len(inner) + (not separator)
  tokens = dataset.encode(content)
  assert len(tokens) < len(content) and max(tokens) < dataset.vocab_size
  # One token at a time, though some are parts of a character.
  assert b"".join(dataset.decode([t]) for t in tokens) == content
  assert dataset.decode(predicted(dataset)) == b"the hat" + content
  assert config.codec().encode(b"cat") == dataset.encode(b"cat")
  Tokens(path=folder, tokenizer=str(tokenizer_file)).open("train")
  with pytest.raises(tokenize.UserError, match="other files or other settings"):
    run(tmp_path)


def test_tokens_of_another_tokenizer_are_refused(
  tmp_path, no_processes, tokenizer_file
):
  folder = tokenized(tmp_path)
  config = Tokens(path=folder, tokenizer=str(tokenizer_file))
  with pytest.raises(
    ValueError, match=r"of another tokenizer than .*bpe\.json"
  ):
    config.open("train")
