"""Text files as tokens of a tokenizer, in memory."""

import json

import numpy as np
import pytest

from tests.train.data.test_content import TEXTS, Words
from tests.train.data.tokenizing import rows_of, tokenized
from train.data import Text, Tokens, encoded_text, tokenizer
from train.data.dataset import content_bytes


class Codec(Words):
  """The same, with the codec of a data set."""

  def encode(self, content):
    return self.encode_exactly(content).tokens.tolist()

  def decode(self, tokens):
    return b"".join(self.vocabulary()[token] for token in tokens)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  monkeypatch.setattr(
    tokenizer, "load", lambda path, _: Codec() if path else None
  )
  for number, content in enumerate(TEXTS):
    (tmp_path / f"{number}.txt").write_bytes(content)
  return Text(length=4, path=str(tmp_path), tokenizer="x", held_out=0.4)


def test_every_token_is_predicted_once(corpus):
  found, sizes = {}, 0
  for split in ("train", "validation"):
    dataset = corpus.open(split)
    rows = rows_of(dataset)
    counted = [row["weights"] > 0 for row in rows]
    for row, here in zip(rows, counted, strict=True):
      for name in ("inputs", "targets"):
        assert row[name].dtype == np.int32 and row[name].shape == (4,)
      # A document does not see the one before.
      opens = row["inputs"] == Words.separator
      np.testing.assert_array_equal(
        np.diff(row["segment_ids"])[here[1:]], opens[1:][here[1:]]
      )
    tokens = [row["targets"][w] for row, w in zip(rows, counted, strict=True)]
    found[split] = np.concatenate(tokens).tolist()
    sizes += content_bytes(dataset, np.arange(len(dataset)))
    assert dataset.vocab_size == Words.vocab_size
  wanted = [
    t for text in TEXTS for t in Words().encode_exactly(text).tokens[1:]
  ]
  assert sorted(found["train"] + found["validation"]) == sorted(wanted)
  assert sizes == sum(map(len, TEXTS))
  assert corpus.codec().identity == Words.identity


def test_a_file_that_is_cut_ends_at_whole_characters(corpus, tmp_path):
  text = "a\u00e9\u20ac\U0001f600b"
  content = text.encode()
  for start in range(len(content) + 1):
    for stop in range(start, len(content) + 1):
      part = encoded_text.whole_characters(content[start:stop])
      assert part.decode() in text
      assert len(part) >= stop - start - 6
  assert encoded_text.whole_characters(content) == content


def test_other_text_is_other_data(corpus, tmp_path):
  before = corpus.open("train").digest()
  assert corpus.open("train").digest() == before
  for path in tmp_path.iterdir():
    path.write_bytes(path.read_bytes().replace(b"th", b"ht"))
  assert corpus.open("train").digest() != before


def checkpoint(folder, config):
  """A folder with a tokenizer of seven words, and perhaps a config."""
  tokenizers = pytest.importorskip("tokenizers")
  names = {f"w{i}": i for i in range(7)}
  inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, "w0"))
  inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  inner.save(str(folder / "tokenizer.json"))
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  return str(folder)


def test_tokens_on_disk_know_the_tokenizer_of_a_checkpoint(
  tmp_path, no_processes
):
  (tmp_path / "own").mkdir()
  folder = checkpoint(tmp_path / "own", {"eos_token_id": 5})
  contents = [b"w1 w2 w3", b"w4 w6"]
  words = tokenized(tmp_path, contents, "--tokenizer", folder)
  config = Tokens(words, 4, validation=words, tokenizer=folder)
  row = config.open("train")[0]
  assert sorted(row["inputs"][row["weights"] > 0])[-1] == 5
  assert config.codec().encode(b"w3") == [5, 3]


@pytest.mark.parametrize(
  ("config", "wanted"),
  [
    ({"bos_token_id": 5, "eos_token_id": 2}, 5),
    ({"bos_token_id": None, "eos_token_id": [3, 4]}, 3),
    ({}, 7),
    (None, 7),
  ],
)
def test_a_checkpoint_names_the_token_that_begins_a_text(
  tmp_path, config, wanted
):
  checkpoint(tmp_path, config)
  found = tokenizer.load(str(tmp_path))
  assert found.separator == wanted
  assert found.encode(b"w3")[0] == wanted
  assert found.vocab_size == (8 if wanted == 7 else 7)
