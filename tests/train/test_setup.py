"""A run resumes only on the data that it began with."""

import copy
import dataclasses
import shutil
import types

import numpy as np
import pytest

from tests.train import hybrid, tiny
from train import __main__ as command
from train.command import main_with_errors
from train.config import Cosine, serialize
from train.data import Text, digest
from train.errors import UserError
from train.loop import run
from train.setup import _refuse_changes


def make_corpus(folder):
  folder.mkdir()
  for number in range(12):
    (folder / f"{number}.txt").write_text(f"document {number} " * 9)


def change_middle(folder):
  path = folder / "3.txt"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def exchange(folder):
  contents = [(folder / name).read_text() for name in ("3.txt", "4.txt")]
  for name, content in zip(("4.txt", "3.txt"), contents, strict=True):
    (folder / name).write_text(content)


CHANGES = {
  "changed": change_middle,
  "added": lambda folder: (folder / "new.txt").write_text("new"),
  "removed": lambda folder: (folder / "5.txt").unlink(),
  "renamed": lambda folder: (folder / "5.txt").rename(folder / "five.txt"),
  "exchanged": exchange,
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  """A run of two steps on a corpus: the config, its directory, the corpus."""
  root = tmp_path_factory.mktemp("changed")
  make_corpus(root / "corpus")
  config = tiny.get_config()
  config = dataclasses.replace(
    config,
    data=Text(length=12, path=str(root / "corpus"), held_out=0.3),
    optimizer=dataclasses.replace(
      config.optimizer, schedule=Cosine(end_step=12)
    ),
    steps=2,
  )
  run(config, str(root / "run"))
  return dataclasses.replace(config, steps=3), str(root / "run"), root


@pytest.fixture
def corpus(begun):
  """The folder of the corpus, which is restored after the test."""
  folder, kept = begun[2] / "corpus", begun[2] / "kept"
  shutil.copytree(folder, kept)
  yield folder
  shutil.rmtree(folder)
  kept.rename(folder)


@pytest.mark.parametrize("how", CHANGES)
def test_other_data_are_refused(begun, corpus, how):
  config, workdir, _ = begun
  CHANGES[how](corpus)
  with pytest.raises(UserError, match=r"changed since.* --new-data") as error:
    run(config, workdir)
  assert "\n" not in str(error.value)
  assert "train split" in str(error.value) or "validation" in str(error.value)


def test_the_split_that_changed_is_named(begun, corpus):
  config, workdir, _ = begun
  digests = {
    split: digest(config.data.open(split)) for split in ("train", "validation")
  }
  named = set()
  for path in sorted(corpus.iterdir()):
    content = path.read_bytes()
    path.write_bytes(b"X" + content[1:])
    changed = {
      split
      for split in digests
      if digest(config.data.open(split)) != digests[split]
    }
    (split,) = changed
    if split not in named:
      with pytest.raises(UserError, match=f"^the {split} split has changed"):
        run(config, workdir)
    named.add(split)
    path.write_bytes(content)
  assert named == {"train", "validation"}


def test_new_data_can_be_allowed(tmp_path, capsys):
  make_corpus(tmp_path / "corpus")
  words = [
    "tests/train/tiny.py",
    f"--workdir={tmp_path / 'run'}",
    "--steps=2",
  ]
  assert main_with_errors(command._run, words) == 0
  words += ["--log_every=2", "--new_data"]
  assert main_with_errors(command._run, words) == 0
  assert "resumes with" not in capsys.readouterr().out
  size = tiny.Rows.__len__
  tiny.Rows.__len__ = lambda self: size(self) - 1
  try:
    assert main_with_errors(command._run, words[:-1]) == 2
    error = capsys.readouterr().err
    assert "the train split and the validation split have changed" in error
    assert error.count("\n") == 1
    assert main_with_errors(command._run, words) == 0
    assert "resumes with the new data" in capsys.readouterr().out
  finally:
    tiny.Rows.__len__ = size


class Numbers:
  vocab_size = 9

  def __init__(self, rows):
    self._rows = rows

  def __len__(self):
    return len(self._rows)

  def __getitem__(self, index):
    return {"inputs": self._rows[index]}


def test_changed_data_without_a_digest_method_are_detected():
  rows = np.arange(40).reshape(10, 4)
  seen = {digest(Numbers(rows))}
  assert digest(Numbers(rows.copy())) in seen
  for change in (
    rows[::-1],
    rows[:-1],
    np.roll(rows, 1, 0),
    rows.astype(np.int32),
    rows.reshape(10, 2, 2),
    np.where(rows == 17, 0, rows),
  ):
    seen.add(digest(Numbers(change)))
  other = Numbers(rows)
  other.vocab_size = 10
  seen.add(digest(other))
  assert len(seen) == 8


def test_large_data_are_read_at_even_distances():
  asked = []

  class Large(Numbers):
    def __init__(self):
      pass

    def __len__(self):
      return 10_000_000

    def __getitem__(self, index):
      asked.append(index)
      return {"inputs": np.zeros(1)}

  digest(Large())
  assert len(asked) == 1024 and asked[0] == 0 and asked[-1] == 9_999_999
  gaps = np.diff(asked)
  assert gaps.min() > 9_000 and gaps.max() < 10_000


def test_a_field_newer_than_a_saved_run_gets_its_default():
  """Runs that were saved before `LanguageModel` had layouts resume."""
  config = hybrid.get_config()
  document = serialize.to_json(config)
  older = copy.deepcopy(document)
  for name in ("layout", "norm", "norm_epsilon", "input_norm"):
    del older["model"][name]
  snapshot = types.SimpleNamespace(config=older, step=0)
  _refuse_changes(snapshot, document, config, "run")
  other = copy.deepcopy(document)
  other["model"]["layout"] = "parallel"
  with pytest.raises(UserError, match=r"layout was 'pre_norm' and is 'parall"):
    _refuse_changes(snapshot, other, config, "run")
