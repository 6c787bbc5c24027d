"""Config files with any location and any name."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from jaxmodels.mixers import MIXERS
from train import __main__ as train_command
from train import evaluate, generate
from train.command import main_with_errors
from train.config import command_line, modules, saved, serialize
from train.errors import UserError

CONFIG = """
import dataclasses

import parts_of_it
from jaxmodels.mixers import GLA, MIXERS
from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Cosine, Sample
from train.data import Text


class Mine(GLA):
  heads: int = 1


@dataclasses.dataclass(frozen=True)
class Settings:
  size: int = 1

  def open(self, split):
    raise ValueError


MIXERS["mine"] = Mine


def get_config():
  return Config(
    model=LanguageModel(
      vocab_size=257, width=parts_of_it.WIDTH, depth=1, mixers=("mine",)
    ),
    data=Text(length=16, path={text!r}),
    optimizer=AdamW(warmup_steps=1),
    steps=1,
    batch_size=2,
    sample=Sample(length=0),
  )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder with a config that registers a mixer and imports a neighbour."""
  text = tmp_path / "text.txt"
  text.write_text("some text, and some more of it. " * 20)
  (tmp_path / "own").mkdir()
  (tmp_path / "own" / "parts_of_it.py").write_text("WIDTH = 8\n")
  (tmp_path / "own" / "mine.py").write_text(CONFIG.format(text=str(text)))
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield tmp_path / "own"
  forget(tmp_path)
  sys.modules.pop("own", None)


def forget(folder):
  """Makes this process like a new one that has imported no config."""
  MIXERS.pop("mine", None)
  for name, module in list(sys.modules.items()):
    if str(folder) in str(getattr(module, "__file__", "")):
      del sys.modules[name]
  sys.path[:] = [path for path in sys.path if str(folder) not in path]


@pytest.mark.slow
def test_a_mixer_of_a_config_is_found_by_later_commands(
  folder, tmp_path, capsys
):
  path, workdir = folder / "mine.py", f"--workdir={tmp_path / 'run'}"
  words = (f"{path}", workdir)
  assert main_with_errors(train_command._run, words) == 0
  with open(tmp_path / "run" / "config.json") as file:
    assert json.load(file)["$source"] == str(path)
  capsys.readouterr()
  for flag, command, *words in (
    ("--trust", generate._run, workdir, "--prompt=a", "--length=1"),
    ("--trust", evaluate._run, workdir),
  ):
    forget(folder)
    assert main_with_errors(command, words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'mine'" in error
    assert f"--trust={path}" in error
    assert "mine" not in MIXERS and "parts_of_it" not in sys.modules
    assert main_with_errors(command, (*words, f"{flag}={path}")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_mixer_of_a_config_may_be_a_module_without_a_name(
  folder, tmp_path, capsys, scan_layers
):
  path, workdir = folder / "mine.py", f"--workdir={tmp_path / 'run'}"
  text = path.read_text().replace('MIXERS["mine"] = Mine', "")
  text = text.replace(
    'mixers=("mine",)',
    f"mixers=(Mine(8), Mine(8, heads=2)), scan_layers={scan_layers}",
  )
  text = text.replace("depth=1", "depth=2").replace(
    "warmup_steps=1", "warmup_steps=1, schedule=Cosine(end_step=5)"
  )
  path.write_text(text)
  words = (f"{path}", workdir, "--model.mixers.0.heads=4")
  assert main_with_errors(train_command._run, words) == 0
  with open(tmp_path / "run" / "config.json") as file:
    saved_mixers = json.load(file)["model"]["mixers"]
  assert [m["$class"] for m in saved_mixers] == ["mine:Mine"] * 2
  assert [m["heads"] for m in saved_mixers] == [4, 2]
  capsys.readouterr()
  for command, *own in (
    (generate._run, workdir, "--prompt=a", "--length=2"),
    (evaluate._run, workdir),
  ):
    forget(folder)
    assert main_with_errors(command, own) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"--trust={path}" in error
    assert "names the class 'mine:Mine'" in error
  # The test above trusts `generate` too.
  assert main_with_errors(command, (*own, f"--trust={path}")) == 0
  assert capsys.readouterr().err == ""
  # The same command goes on; another entry is another run.
  forget(folder)
  longer = (*words, "--steps=2")
  assert main_with_errors(train_command._run, longer) == 0
  assert "resum" in capsys.readouterr().out
  assert main_with_errors(train_command._run, (*longer[:2], longer[3])) == 2
  error = capsys.readouterr().err
  assert "config.model.mixers.0.heads was 4 and is 1" in error


def test_classes_of_a_config_are_found_from_any_directory(
  folder, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config = command_line.load("own/mine.py")
  settings = sys.modules["own.mine"].Settings(size=3)
  config = dataclasses.replace(config, data=settings)
  document = {**serialize.to_json(config), "$source": str(folder / "mine.py")}
  forget(folder)
  monkeypatch.chdir("/")
  with pytest.raises(UserError) as error:
    saved.read_config(document)
  for part in ("own.mine:Settings", "--trust=own.mine", f"={folder}/mine.py"):
    assert part in str(error.value)
  trusted = modules.import_trusted([str(folder / "mine.py")])
  assert "own.mine" not in trusted
  assert saved.read_config(document, trusted).data.size == 3


@pytest.mark.parametrize("name", ["json", "wave", "numpy", "tqdm"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_config_may_have_the_name_of_a_module(
  folder, tmp_path, monkeypatch, name, inside
):
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(folder if inside else tmp_path / "elsewhere")
  path = (folder / "mine.py").rename(folder / f"{name}.py")
  was = sys.modules.get(name)
  config = command_line.load(f"{name}.py" if inside else str(path))
  assert config.model.mixers == ("mine",)
  assert sys.modules.get(name) is was
  assert config.model.width == 8


@pytest.mark.slow
def test_a_command_may_stand_beside_a_config_called_json(folder):
  (folder / "mine.py").rename(folder / "json.py")
  root = str(pathlib.Path(__file__).parents[3])
  words = [sys.executable, "-m", "train", "json.py", "--workdir=run"]
  result = subprocess.run(
    words,
    cwd=folder,
    env={**os.environ, "PYTHONPATH": root},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr


def test_files_beside_a_config_hide_no_module(folder):
  (folder / "wave.py").write_text("raise RuntimeError\n")
  command_line.load(str(folder / "mine.py"))
  import wave

  assert "own" not in wave.__file__
  sys.modules.pop("wave")


def test_a_config_below_the_current_directory_has_a_dotted_name(
  folder, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert command_line.load("own/mine.py").model.mixers == ("mine",)
  assert MIXERS["mine"].__module__ == "own.mine"
  first = sys.modules["own.mine"]
  assert modules.import_file("own/mine.py") is first
  assert modules.import_trusted(["own.mine"]) == ("own.mine",)
  assert sys.modules["own.mine"] is first


@pytest.mark.parametrize(
  ("content", "parts"),
  [
    ("x = 1\ndef get_config(:\n", ("line 2", "SyntaxError")),
    ("import os\n\nimport nosuchmodule\n", ("line 3", "nosuchmodule")),
    ("from train.config import Confg\n", ("line 1", "Confg")),
    ("x = 1\ny = zz\n", ("line 2", "NameError", "zz")),
    ("1 / 0\n", ("line 1", "ZeroDivisionError")),
    ("x = '\0'\n", ("null bytes",)),
    ("x = '\xe9\ud800'\n", ("Error",)),
    ("def get_config():\n  return xx\n", ("line 2", "NameError", "xx")),
    ("def get_config(a):\n  return a\n", ("get_config", "argument")),
    ("def get_config():\n  return {}[1]\n", ("line 2", "KeyError")),
  ],
)
def test_a_config_that_fails_is_one_line(tmp_path, content, parts):
  path = tmp_path / "bad.py"
  path.write_bytes(content.encode("utf-8", "surrogatepass"))
  with pytest.raises(UserError, match=re.escape(str(path))) as error:
    command_line.load(str(path))
  for part in parts:
    assert part in str(error.value)
  assert "\n" not in str(error.value)
  assert "bad" not in sys.modules


def test_a_config_that_is_not_python_is_one_line():
  with pytest.raises(UserError, match=r"README\.md is not a Python file"):
    command_line.load("README.md")
