"""What tokens stand for: the bytes per row, bits per byte, baselines."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests.train import tiny
from tests.train.data.tokenizing import rows_of, tokenized
from train import evaluate, loop, summary
from train.command import main_with_errors
from train.data import (
  Mixture,
  Text,
  Tokens,
  baselines,
  corpus,
  shards,
  tokenizer,
)
from train.data.dataset import content_bytes
from train.data.tokens import PACKINGS
from train.metrics import read_metrics


class Words:
  """Lower-case letters and pairs of them as tokens; spaces are stripped.

  A made-up tokenizer, written by hand, that loses capitals and spaces.
  """

  identity = "words"
  separator = 0
  separator_name = ""
  pieces = ("", *(chr(97 + i) for i in range(26)), "th", "the", "é")
  vocab_size = len(pieces)

  def vocabulary(self):
    return [piece.encode() for piece in self.pieces]

  def split(self, content):
    """Tokens, and the text that each of them stands for."""
    text = content.decode()
    found, before = [], ""
    while text:
      if text[0] == " ":
        before, text = before + " ", text[1:]
        continue
      piece = next(
        p
        for p in sorted(self.pieces, key=len, reverse=True)
        if p and text.lower().startswith(p)
      )
      found.append((self.pieces.index(piece), before + text[: len(piece)]))
      before, text = "", text[len(piece) :]
    if found:
      found[-1] = (found[-1][0], found[-1][1] + before)
    return found

  def encode_exactly(self, content):
    parts = self.split(content)
    tokens = np.array([self.separator, *(token for token, _ in parts)])
    sizes = np.array([0, *(len(text.encode()) for _, text in parts)])
    known = np.array([len(piece) for piece in self.vocabulary()])[tokens]
    (places,) = np.nonzero(sizes - known)
    return tokenizer.Encoded(tokens, places, (sizes - known)[places])


TEXTS = [b"The other day ", b"  thethe", "caf\u00e9 Th".encode(), b"x", b"A  b"]


@pytest.fixture
def words(tmp_path, no_processes, monkeypatch):
  monkeypatch.setattr(tokenizer, "load", lambda *_: Words())
  return tokenized(tmp_path, TEXTS)


@pytest.mark.parametrize("packing", PACKINGS)
def test_any_rows_know_the_bytes_that_they_predict(words, packing):
  config = Tokens(words, 5, packing, validation=words)
  dataset = config.open("train")
  found = Words()
  # By hand: the piece and the text of the token at each place of the stream.
  expected = []
  texts = os.path.join(os.path.dirname(words), "text")
  for document in corpus.find_documents(texts, "*"):
    content = document.read()
    expected += [
      ("", ""),
      *((found.pieces[t], x) for t, x in found.split(content)),
    ]
  if packing == "end_to_end":
    rows = [
      range(5 * row + 1, min(5 * row + 6, len(expected)))
      for row in range(len(dataset))
    ]
  else:
    rows = [
      [
        begin + 1 + i
        for begin, size in dataset._pieces(row, row + 1)
        for i in range(size)
      ]
      for row in range(len(dataset))
    ]
  for start in range(len(dataset)):
    for stop in range(start, len(dataset) + 1):
      places = [place for row in rows[start:stop] for place in row]
      texts = "".join(expected[place][1] for place in places)
      assert dataset.content_bytes(start, stop) == len(texts.encode())
      pieces = "".join(expected[place][0] for place in places)
      assert dataset.content(start, stop) == pieces.encode()
  assert dataset.content_bytes(0, len(dataset)) == sum(map(len, TEXTS))


def test_tokens_of_earlier_versions_do_not_know_their_bytes(words):
  os.unlink(os.path.join(words, shards.VOCABULARY))
  dataset = Tokens(words, 5, validation=words).open("train")
  assert content_bytes(dataset, np.arange(len(dataset))) is None
  assert baselines(dataset, dataset) == {}


def test_a_damaged_vocabulary_is_named(words):
  path = os.path.join(words, shards.VOCABULARY)
  with open(path, "w") as file:
    file.write('["a"]')
  dataset = Tokens(words, 5, validation=words).open("train")
  with pytest.raises(ValueError, match="json is not what train"):
    dataset.content_bytes(0, 1)


def test_a_mixture_of_texts_knows_its_bytes(tmp_path, no_processes):
  folder = tokenized(tmp_path)
  text = Text(length=4, path=str(tmp_path / "text"), held_out=0.5)
  mixed = Mixture((text, Tokens(folder, 4, validation=folder))).open(
    "validation"
  )
  rows = [row for x in mixed._datasets for row in rows_of(x)]
  for start, stop in ((0, len(mixed)), (1, 3), (0, 0)):
    predicted = [row["targets"][row["weights"] > 0] for row in rows[start:stop]]
    want = bytes(np.concatenate([np.zeros(0, np.int32), *predicted]).tolist())
    assert mixed.content(start, stop) == want
    assert mixed.content_bytes(start, stop) == len(want)
  some = np.array([2, 0, len(mixed) - 1])
  want = sum(int((rows[i]["weights"] > 0).sum()) for i in some)
  assert content_bytes(mixed, some) == want


def test_bits_per_byte_of_a_run_and_beside_it_gzip(
  words, tmp_path, monkeypatch
):
  opened = []
  true_open = Tokens.open
  monkeypatch.setattr(
    Tokens,
    "open",
    lambda self, split: opened.append(split) or true_open(self, split),
  )
  config = dataclasses.replace(
    tiny.get_config(),
    data=Tokens(words, 4, validation=words),
    model=tiny.Model(vocab_size=Words.vocab_size),
    steps=2,
    eval_every=1,
    batch_size=2,
    eval_batches=2,
  )
  workdir = tmp_path / "run"
  loop.run(config, str(workdir))
  assert opened == ["train", "validation"]
  dataset = config.data.open("validation")
  lines = read_metrics(workdir)
  assert lines[0]["split"] == "baseline"
  assert lines[0]["gzip"] > lines[0]["unigram"] > 1
  found = [line for line in lines if line["split"] == "validation"]
  assert len(found) == 3
  for line in found:
    # Four rows of the validation, those of `eval_batches`.
    bits = line["loss"] * line["targets"] / np.log(2)
    want = bits / dataset.content_bytes(0, 4)
    assert line["bits_per_byte"] == pytest.approx(want, rel=1e-6)
  assert len(dataset) > 4
  # The command finds the same.
  words = [str(workdir), "--batches=2", "--trust=tests.train.tiny"]
  assert main_with_errors(evaluate._run, words) == 0
  (row,) = json.loads((workdir / evaluate.FILE_NAME).read_text())["rows"]
  assert row["baselines"] == {k: lines[0][k] for k in ("unigram", "gzip")}
  assert row["metrics"]["bits_per_byte"] == pytest.approx(line["bits_per_byte"])
  # The report draws the training in the same unit.
  curve = summary.Run(workdir).curve("train", "bits_per_byte", "step")
  assert len(curve[0]) == 2 and (curve[1] > 0).all()


def test_the_offsets_of_a_file_say_the_bytes_of_each_token(tmp_path):
  tokenizers = pytest.importorskip(
    "tokenizers", reason="the package tokenizers is not installed"
  )
  names = ["[UNK]", "the", "caf\u00e9", "x", "y"]
  inner = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, "[UNK]")
  )
  inner.normalizer = tokenizers.normalizers.Lowercase()
  inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  path = str(tmp_path / "tokenizer.json")
  inner.save(path)
  found = tokenizer.load(path)
  content = "  The  Caf\u00e9 x longer y ".encode()
  encoded = found.encode_exactly(content)
  np.testing.assert_array_equal(encoded.tokens, found.encode(content))
  sizes = np.array([len(piece) for piece in found.vocabulary()])[encoded.tokens]
  sizes[encoded.places] += encoded.excess
  texts = ["", "  The", "  Caf\u00e9", " x", " longer", " y "]
  assert sizes.tolist() == [len(text.encode()) for text in texts]
  plain = found.encode_exactly(b"x")
  assert plain.tokens.tolist() == [5, 3] and not len(plain.places)
