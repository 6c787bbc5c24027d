"""Broken folders and wrong settings of tokens are named."""

import json
import os
import re

import numpy as np
import pytest

from tests.train.data.tokenizing import run, tokenized
from train.data import (
  Tokens,
  tokenize,
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
