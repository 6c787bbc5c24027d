"""Malicious checkpoints: paths outside their directory, wrong metadata."""

import json
import os
import shutil

import pytest

from tests.train import tiny
from train import checkpoint
from train.errors import UserError
from train.files import checkpoint_folder
from train.loop import run


@pytest.fixture
def copied(finished, tmp_path):
  """A copy of a finished run, and the folder of its last checkpoint."""
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  return workdir, os.path.join(workdir, "checkpoints", "12")


def sums(folder):
  with open(os.path.join(folder, "checksums.json"), "w") as file:
    json.dump(checkpoint_folder.checksums(folder), file)


def assert_skipped(workdir, part):
  said = []
  assert checkpoint.load(workdir, "latest", said.append).step == 9
  assert len(said) == 1 and "\n" not in said[0]
  assert "step 12, it is damaged" in said[0] and part in said[0]


@pytest.mark.parametrize(
  "name", ["../../../secret", "{root}/secret", "state/../../../../secret"]
)
def test_a_list_of_files_stays_inside(copied, tmp_path, name):
  workdir, folder = copied
  (tmp_path / "secret").write_text("abc")
  name = name.format(root=tmp_path)
  path = os.path.join(folder, "checksums.json")
  with open(path) as file:
    listed = json.load(file)
  listed[name] = checkpoint_folder._checksum(str(tmp_path / "secret"))
  with open(path, "w") as file:
    json.dump(listed, file)
  assert_skipped(workdir, "is outside it")


@pytest.mark.parametrize("what", ["file", "folder", "list", "pipe"])
def test_links_and_pipes_are_not_followed(copied, tmp_path, what):
  workdir, folder = copied
  name = {
    "file": "meta/metadata",
    "folder": "state",
    "list": "checksums.json",
    "pipe": "meta/pipe",
  }[what]
  inside, outside = os.path.join(folder, name), str(tmp_path / "outside")
  if what == "pipe":
    os.mkfifo(inside)
  else:
    os.rename(inside, outside)
    os.symlink(outside, inside)
  assert_skipped(workdir, "link")


def test_a_checkpoint_that_is_a_link_is_skipped(copied, tmp_path):
  workdir, folder = copied
  os.rename(folder, tmp_path / "outside")
  os.symlink(tmp_path / "outside", folder)
  assert_skipped(workdir, "link")


@pytest.mark.parametrize(
  "content",
  [
    "[]",
    "null",
    "3",
    '{"meta/metadata": 3}',
    '{"meta/metadata": [1]}',
    '{"meta/metadata": ["1", "2"]}',
    '{"meta/metadata": [NaN, 2]}',
    '{"": [0, 0]}',
    "[" * 900 + "]" * 900,
    "[" * 100_000,
    "\ud800".encode("utf-8", "surrogatepass"),
  ],
)
def test_a_wrong_list_of_files_is_one_line(copied, content):
  workdir, folder = copied
  with open(os.path.join(folder, "checksums.json"), "wb") as file:
    file.write(content if isinstance(content, bytes) else content.encode())
  assert_skipped(workdir, "")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("step", "12"),
    ("step", 13),
    ("step", True),
    ("position", None),
    ("position", -1),
    ("config", []),
    ("metrics", {"loss": "x"}),
    ("metrics", 1),
    ("evaluated", "yes"),
    ("more", 1),
  ],
)
def test_metadata_of_wrong_types_are_one_line(copied, key, value):
  workdir, folder = copied
  path = os.path.join(folder, "meta", "metadata")
  with open(path) as file:
    meta = json.load(file)
  meta[key] = value
  with open(path, "w") as file:
    json.dump(meta, file)
  sums(folder)
  assert_skipped(workdir, "")


@pytest.mark.parametrize("depth", [80, 900])
def test_deep_configs_are_one_line(copied, depth):
  workdir, folder = copied
  path = os.path.join(folder, "meta", "metadata")
  with open(path) as file:
    text = file.read()
  deep = '{"a":' * depth + "1" + "}" * depth
  with open(path, "w") as file:
    file.write(text.replace('"seed": 0', f'"seed": {deep}'))
  assert os.path.getsize(path) > len(text)
  sums(folder)
  assert_skipped(workdir, "")


def test_a_refused_command_changes_nothing(copied):
  workdir, folder = copied
  os.remove(os.path.join(folder, "checksums.json"))
  half = os.path.join(workdir, "checkpoints", "13.orbax-checkpoint-tmp")
  os.makedirs(half)
  with open(os.path.join(workdir, "metrics.jsonl"), "a") as file:
    file.write('{"step": 12, "spl')
  before = everything(workdir)
  config = tiny.get_config()
  with pytest.raises(UserError, match="another config"):
    run(tiny.dataclasses.replace(config, seed=5), workdir)
  assert everything(workdir) == before
  assert os.path.isdir(half)


def everything(folder):
  """Returns all folders and the contents of all files except the lock."""
  found = {}
  for parent, folders, names in os.walk(folder):
    found.update({os.path.join(parent, name): None for name in folders})
    for name in names:
      if name != ".lock":
        with open(os.path.join(parent, name), "rb") as file:
          found[os.path.join(parent, name)] = file.read()
  return found
