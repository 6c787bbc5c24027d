import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from train.data import (
  Tokens,
  corpus,
  documents,
  packing,
  tokenize,
  tokenizer,
)
from train.data.text import PackedBytes

DOCUMENTS = [b"alpha", b"\x00\xff", b"b", b"gamma gamma", b"de" * 9]


def tokenized(folder, contents=DOCUMENTS, *words):
  """Writes files and tokenises them, in this process: the folder."""
  (folder / "text").mkdir()
  for number, content in enumerate(contents):
    (folder / "text" / f"{number:03d}.txt").write_bytes(content)
  return run(folder, *words)


def run(folder, *words):
  given = ["--files", str(folder / "text"), "--output", str(folder / "out")]
  options = tokenize.read_flags([*given, *words])
  plan = documents.make_plan(options)
  os.makedirs(options.output, exist_ok=True)
  tokenize.tokenize(plan, options.output, 1)
  return options.output


@pytest.fixture
def no_processes(monkeypatch):
  """Writes the shards in this process: starting another takes a second."""

  def write_all(plan, folder, processes):
    found = tokenizer.load(plan.tokenizer, plan.separator)
    for number in range(len(plan.shards)):
      tokenize.write_shard(plan, number, folder, found)

  monkeypatch.setattr(tokenize, "_write_all", write_all)


def command(folder, *words):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "train.data.tokenize"),
      *("--files", str(folder / "text"), "--output", str(folder / "out")),
      *words,
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def files_of(folder):
  return {
    name: (folder / name).read_bytes()
    for name in os.listdir(folder)
    if name != ".lock"
  }


def rows_of(dataset):
  return [dataset[index] for index in range(len(dataset))]


def predicted(dataset):
  """The tokens that are predicted, each once."""
  rows = rows_of(dataset)
  return np.concatenate([row["targets"][row["weights"] > 0] for row in rows])


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


def lengths_of(rng, count, length):
  return np.clip(rng.lognormal(np.log(length) - 1.5, 1, count), 2, None)


def brute_best_fit(sizes, length):
  """Places one piece after another, from the definition: sums of the rows."""
  rooms, rows = [], []
  for size in sorted(sizes, reverse=True):
    fitting = [r for r in rooms if r >= size]
    if fitting:
      number = rooms.index(min(fitting))
    else:
      number = len(rooms)
      rooms.append(length)
      rows.append([])
    rooms[number] -= size
    rows[number].append(size)
  return sorted(map(sum, rows))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 8, 61])
def test_best_fit_is_the_definition(seed, length):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 2 * length + 1, 200)
  starts = np.cumsum(sizes + 1) - sizes - 1
  plan = packing.best_fit(starts, int((sizes + 1).sum()), length)
  pieces = [
    piece
    for size in sizes
    for piece in [length] * (size // length) + [size % length]
    if piece
  ]
  rows = [
    plan.sizes[a:b].tolist()
    for a, b in zip(plan.rows[:-1], plan.rows[1:], strict=True)
  ]
  # Among rows with equal room any is the best fit.
  assert sorted(map(sum, rows)) == brute_best_fit(pieces, length)
  assert sorted(plan.sizes) == sorted(pieces)


def test_best_fit_cuts_no_document_that_fits_and_wastes_little():
  rng = np.random.default_rng(0)
  sizes = lengths_of(rng, 5000, 512).astype(np.int64)
  starts = np.cumsum(sizes) - sizes
  plan = packing.best_fit(starts, int(sizes.sum()), 512)
  by_begin = dict(zip(plan.begins.tolist(), plan.sizes.tolist(), strict=True))
  for begin, size in zip(starts.tolist(), sizes.tolist(), strict=True):
    if size - 1 <= 512:
      assert by_begin.pop(begin) == size - 1
    else:
      # Full pieces and a rest, one after another.
      for at in range(begin, begin + size - 1, 512):
        assert by_begin.pop(at) == min(512, begin + size - 1 - at)
  assert not by_begin
  filled = np.add.reduceat(plan.sizes, plan.rows[:-1])
  assert filled.max() <= 512 and filled.sum() == (sizes - 1).sum()
  assert 1 - filled.sum() / (512 * len(plan)) < 0.002


def test_segment_ids_restart_in_each_row(tmp_path, no_processes):
  rng = np.random.default_rng(1)
  contents = [b"x" * rng.integers(1, 20) for _ in range(40)]
  folder = tokenized(tmp_path, contents)
  for kind in ("end_to_end", "best_fit"):
    config = Tokens(path=folder, length=24, packing=kind, validation=folder)
    for row in rows_of(config.open("train")):
      ids = row["segment_ids"]
      assert ids[0] == 0 and set(np.diff(ids)) <= {0, 1}
      padded = (row["weights"] == 0) & (row["inputs"] == 256)
      if kind == "best_fit":
        # Each segment is a document, from its separator on, or the padding.
        opens = np.flatnonzero(np.diff(ids, prepend=-1))
        assert (row["inputs"][opens] == 256).all()
        assert ((row["inputs"] == 256).sum() - padded.sum()) in range(
          len(opens) - 1, len(opens) + 1
        )


def write_index(folder, **changes):
  path = os.path.join(folder, "index.json")
  with open(path) as file:
    index = {**json.load(file), **changes}
  with open(path, "w") as file:
    json.dump(index, file)


def broken(folder, how):
  first = os.path.join(folder, "shard-00000")
  if how == "cut":
    os.truncate(f"{first}.bin", 8)
  elif how == "cut starts":
    os.truncate(f"{first}.starts", 8)
  elif how == "gone":
    os.unlink(f"{first}.bin")
  elif how == "dtype":
    write_index(folder, dtype="float64")
  elif how == "no json":
    with open(os.path.join(folder, "index.json"), "w") as file:
      file.write("{")


@pytest.mark.parametrize(
  ("how", "message"),
  [
    ("cut", r"shard-00000\.bin has 8 bytes, but its index says \d+: copy"),
    ("cut starts", r"shard-00000\.starts has 8 bytes, but its index says 40"),
    ("gone", r"cannot read the tokens .*shard-00000\.bin.*: No such file"),
    ("dtype", r"index\.json is not what .* writes \(dtype 'float64'"),
    ("no json", r"index\.json is not what train\.data\.tokenize writes"),
  ],
)
def test_broken_folders_are_named(tmp_path, no_processes, how, message):
  folder = tokenized(tmp_path)
  broken(folder, how)
  with pytest.raises(ValueError, match=message):
    Tokens(path=folder).open("train")


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"path": ""}, "path is empty: set it to"),
    ({"path": "{}/none.bin"}, "cannot read the tokens .*none.bin.*No such"),
    ({"path": "{}/empty.bin"}, "empty.bin has 0 bytes.*it is empty"),
    ({"path": "{}/odd.bin"}, "odd.bin has 7 bytes, which are no whole number"),
    ({"path": "{}/float.npy"}, r"float64 of shape \(3,\), but tokens are int"),
    ({"path": "{}/text.npy"}, "cannot read the tokens .*text.npy"),
    ({"path": "{}/few.bin"}, "few.bin has 2 tokens: too few to hold out any"),
    ({"path": "{}/few.bin", "vocab_size": 0}, "set vocab_size"),
    ({"path": "{}/few.bin", "separator": 300}, "set vocab_size .* above sep"),
    ({"path": "{}/few.bin", "dtype": "int8"}, "dtype must be one of .*int8"),
    ({"path": "{}/few.bin", "tokenizer": "a"}, "which tokenizer made it"),
    ({"packing": "tight"}, "packing must be one of .*got 'tight'"),
    ({"length": 0}, "length must be at least 1, got 0"),
    ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
  ],
)
def test_mistakes_are_named(tmp_path, settings, message):
  (tmp_path / "empty.bin").touch()
  (tmp_path / "odd.bin").write_bytes(b"1234567")
  (tmp_path / "few.bin").write_bytes(b"1234")
  np.save(tmp_path / "float.npy", np.zeros(3))
  (tmp_path / "text.npy").write_text("text")
  settings = {"vocab_size": 300, **settings}
  if "path" in settings:
    settings["path"] = settings["path"].format(tmp_path)
  with pytest.raises(ValueError, match=message):
    Tokens(**settings).open("train")


def test_other_files_do_not_continue_a_folder(tmp_path, no_processes):
  tokenized(tmp_path)
  run(tmp_path)  # Complete: nothing is done.
  (tmp_path / "text" / "new.txt").write_text("more")
  with pytest.raises(tokenize.UserError, match=r"other files or other settin"):
    run(tmp_path)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--output=out"], "--files is missing"),
    (["--files=none", "--output=out"], "no file or folder 'none'"),
    (["--files=empty", "--output=out"], "'empty' holds no non-empty file"),
    (["--files=a", "--output=a"], "--output=a is a file"),
    (["--files=a", "--output=."], "--output=. is not empty"),
    (["--files=a", "--output=o", "--separator=x"], "bytes .* separator, 256"),
    (
      ["--files=a", "--output=o", "--tokenizer=x"],
      "tokenizers|cannot read 'x'",
    ),
    (["--files=a", "--output=o", "--documents=json"], "a: the line at byte 0"),
  ],
)
def test_mistakes_of_the_command_are_one_line(
  tmp_path, monkeypatch, capsys, words, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a").write_text("text\n")
  (tmp_path / "empty").mkdir()
  assert tokenize.main_with_errors(tokenize._run, words) == 2
  lines = capsys.readouterr().err.splitlines()
  (line,) = [x for x in lines if x.startswith("error: ")]

  assert re.search(message, line), line


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
