"""A saved config from somebody else runs no code and opens no files."""

import dataclasses
import json
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxmodels.layers.short_convolution import ShortConvolution
from tests.train import tiny
from train import checkpoint, evaluate, generate
from train.command import main_with_errors
from train.config import modules, saved, serialize
from train.data import Mqar, Text, Tfds
from train.errors import UserError
from train.files import checkpoint_folder


def changed(finished, folder, change):
  """Copies a run, changes its config and updates the checksums."""
  workdir = str(shutil.copytree(finished[0], folder / "run"))
  for step in checkpoint.steps(workdir):
    there = os.path.join(workdir, "checkpoints", str(step))
    path = os.path.join(there, "meta", "metadata")
    with open(path) as file:
      meta = json.load(file)
    change(meta["config"])
    with open(path, "w") as file:
      json.dump(meta, file)
    with open(os.path.join(there, "checksums.json"), "w") as file:
      json.dump(checkpoint_folder.checksums(there), file)
  return workdir


def command(name, workdir, *words):
  run = {"generate": generate._run, "evaluate": evaluate._run}[name]
  if name == "generate":
    words = ("--prompt=a", "--length=1", *words)
  return main_with_errors(run, (f"--workdir={workdir}", *words))


@pytest.mark.parametrize("name", ["generate", "evaluate"])
def test_a_hostile_run_starts_no_program(finished, tmp_path, capsys, name):
  proof = tmp_path / "EXECUTED"

  def change(config):
    words = ["sh", "-c", f"touch {proof}"]
    config["data"] = {"$class": "subprocess:Popen", "args": words}

  workdir = changed(finished, tmp_path, change)
  assert command(name, workdir) == 2
  assert not proof.exists()
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "subprocess:Popen" in error


CALLABLES = {
  "os:system": {"command": "touch {}"},
  "os:mkdir": {"path": "{}"},
  "os:popen": {"cmd": "touch {}"},
  "posix:mkdir": {"path": "{}"},
  "io:open": {"file": "{}", "mode": "w"},
  "builtins:open": {"file": "{}", "mode": "w"},
  "pathlib:Path.touch": {"self": "{}"},
  "logging:FileHandler": {"filename": "{}"},
  "train.files:replace": {"path": "{}", "content": ""},
  "train.files:open_append": {"path": "{}"},
  "train.setup:make_workdir": {"workdir": "{}"},
  "train.setup:os.mkdir": {"path": "{}"},
  "train.checkpoint:Checkpoints": {
    "workdir": "{}",
    "keep": 1,
    "best_metric": "loss",
  },
  "train.config:math.os.mkdir": {"path": "{}"},
  "tests.train.config.test_trust:os.mkdir": {"path": "{}"},
  "tests.train.config.test_trust:shutil.os.mkdir": {"path": "{}"},
}


@pytest.mark.parametrize("path", CALLABLES)
@pytest.mark.parametrize("key", ["$class", "$function"])
def test_nothing_but_settings_is_called(tmp_path, path, key):
  proof = tmp_path / "made"
  fields = {
    k: v.format(proof) if isinstance(v, str) else v
    for k, v in CALLABLES[path].items()
  }
  config = serialize.to_json(tiny.get_config())
  config["data"] = {key: path, **fields}
  with pytest.raises(UserError) as error:
    serialize.from_json(config)
  assert not proof.exists()
  assert path in str(error.value) and "\n" not in str(error.value)


class NoSettings:
  def __init__(self, path="made"):
    os.mkdir(path)


def make_folder(path="made"):
  os.mkdir(path)


@pytest.mark.parametrize("name", ["NoSettings", "make_folder", "pytest"])
def test_a_trusted_module_gives_only_settings(tmp_path, name):
  document = {"$class": f"{__name__}:{name}", "path": str(tmp_path / "made")}
  with pytest.raises(UserError, match=name):
    serialize.from_json(document, (__name__,))
  assert not (tmp_path / "made").exists()


MODULE = """
import dataclasses, pathlib
pathlib.Path({proof!r}).touch()

@dataclasses.dataclass(frozen=True)
class Settings:
  size: int = 1
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
  """A module in the current directory that writes a file when imported."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  proof = tmp_path / "IMPORTED"
  (tmp_path / "foreign_one.py").write_text(MODULE.format(proof=str(proof)))
  yield proof
  sys.modules.pop("foreign_one", None)


def test_a_module_is_imported_only_when_it_is_trusted(foreign):
  document = {"$class": "foreign_one:Settings", "size": 3}
  with pytest.raises(UserError) as error:
    serialize.from_json(document)
  message = str(error.value)
  for part in ("foreign_one:Settings", "module foreign_one", "--trust=foreign"):
    assert part in message
  with pytest.raises(UserError, match="--trust=foreign_one"):
    serialize.from_json({"$function": "foreign_one:Settings"})
  with pytest.raises(UserError, match="--trust=foreign_one"):
    serialize.from_json(document, ("foreign_on", "foreign_one.inner"))
  assert not foreign.exists() and "foreign_one" not in sys.modules
  trusted = modules.import_trusted(["foreign_one"])
  assert serialize.from_json(document, trusted).size == 3
  assert foreign.exists()


def test_a_module_can_be_trusted_by_its_path(foreign, tmp_path):
  (name,) = modules.import_trusted([str(tmp_path / "foreign_one.py")])
  document = {"$class": f"{name}:Settings", "size": 3}
  assert serialize.from_json(document, (name,)).size == 3


@pytest.mark.parametrize(
  ("word", "part"),
  [
    ("nowhere.py", "no such file"),
    ("no_such_module_x", "ModuleNotFoundError"),
    ("a b", "dotted name"),
    ("foreign_two", "line"),
  ],
)
def test_a_module_that_cannot_be_trusted_is_one_line(
  foreign, tmp_path, word, part
):
  (tmp_path / "foreign_two.py").write_text("1 / 0\n")
  with pytest.raises(UserError, match=part) as error:
    modules.import_trusted([word])
  assert "\n" not in str(error.value)
  assert not foreign.exists()


def test_the_current_directory_hides_no_module(foreign, tmp_path, monkeypatch):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  (elsewhere / "foreign_one.py").write_text("")
  monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere)])
  with pytest.raises(UserError, match="another directory") as error:
    modules.import_trusted(["foreign_one"])
  assert "\n" not in str(error.value)
  assert not foreign.exists()


@pytest.mark.parametrize(
  "function", [nn.silu, nn.gelu, nn.relu, jax.nn.softplus, jnp.tanh]
)
def test_an_activation_survives_the_round_trip(function):
  module = ShortConvolution(activation=function)
  document = json.loads(json.dumps(serialize.to_json(module)))
  assert serialize.from_json(document).activation is function


def test_a_function_of_a_trusted_module_survives_the_round_trip():
  document = serialize.to_json(ShortConvolution(activation=make_folder))
  assert serialize.from_json(document).activation is make_folder


@pytest.mark.parametrize(
  "path",
  ["numpy:save", "jax._src.numpy.lax_numpy:load", "posix:system", "os:system"],
)
def test_functions_of_untrusted_modules_are_refused(path):
  document = serialize.to_json(ShortConvolution())
  document["activation"] = {"$function": path}
  with pytest.raises(UserError, match=path):
    serialize.from_json(document)


def nested(depth):
  document = {"$class": "train.config:Sample"}
  for _ in range(depth):
    document = {"prompt": document}
  return document


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"steps": "x"}, "steps"),
    ({"steps": True}, "steps"),
    ({"batch_size": [1]}, "batch_size"),
    ({"sample": {"prompt": 1}}, "sample"),
    ({"optimizer": {"$class": "train.config:Sample"}}, "optimizer"),
    ({"stepz": 1}, "stepz"),
    ({"model": None}, "model"),
    ({"model": {"$class": "train.config:Mesh"}}, "model"),
    ({"data": 5}, "data"),
    ({"data": {"$class": "train.config:Mesh"}}, "data"),
    ({"$class": 5}, "MODULE:NAME"),
    ({"$class": "train.config"}, "MODULE:NAME"),
    ({"$class": "train.config:..os"}, "MODULE:NAME"),
    ({"$class": ".config:Config"}, "MODULE:NAME"),
    ({"$class": "../train/config:Config"}, "MODULE:NAME"),
    ({"$class": "ｔrain.config:Config"}, "rain.config"),
    ({"$class": "train.config:Configs"}, "not there"),
    ({"$class": "train.config:Mesh"}, "Mesh"),
    ({"seed": {"$dtype": 5}}, "dtype"),
    ({"seed": {"$dtype": "load"}}, "dtype"),
    ({"sample": nested(900)}, "levels deep"),
  ],
)
def test_a_config_that_is_wrong_is_one_line(change, part):
  document = {**serialize.to_json(tiny.get_config()), **change}
  with pytest.raises(UserError) as error:
    saved.read_config(document)
  assert part in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("document", [None, 3, [], {}, "x", {"a": {}}])
def test_a_document_that_is_not_a_config_is_one_line(document):
  with pytest.raises(UserError, match="not a Config"):
    saved.read_config(document)


def test_generate_needs_no_data(finished, tmp_path, capsys):
  def change(config):
    config["data"] = serialize.to_json(Text(path=str(tmp_path / "gone")))

  workdir = changed(finished, tmp_path, change)
  assert command("generate", workdir) == 0
  assert command("evaluate", workdir) == 2
  assert "gone" in capsys.readouterr().err


def test_codecs_equal_those_of_the_opened_data(tmp_path):
  (tmp_path / "a.txt").write_text("some text")
  mqar = Mqar(train_examples=2, validation_examples=2, data_dir=str(tmp_path))
  for settings, prompt in ((mqar, b"3 14"), (Text(path=str(tmp_path)), b"ab")):
    opened = settings.open("train")
    codec = settings.codec(opened.vocab_size)
    assert codec.encode(prompt) == opened.encode(prompt)
    tokens = [*codec.encode(prompt), 7]
    assert codec.decode(tokens) == opened.decode(tokens)
  codec = Tfds(name="any").codec(11)
  assert codec.encode(b"3 9") == [10, 3, 9] and codec.decode([10, 3]) == b"3 "
  assert Tfds(name="any", vocab_size=10).codec().encode(b"9") == [10, 9]
  assert Tfds(name="any").codec() is None


def test_evaluating_writes_and_downloads_nothing(tmp_path):
  folder = tmp_path / "data"
  mqar = Mqar(train_examples=300, validation_examples=3, data_dir=str(folder))
  made = mqar.read_only().open("train")
  assert not folder.exists()
  stored = mqar.open("train")
  assert len(made) == len(stored) == 300
  # The order of stored examples is that of tfds.
  rows = [
    sorted(tuple(rows[i]["inputs"]) for i in range(300))
    for rows in (made, stored)
  ]
  assert rows[0] == rows[1]
  assert not Tfds(name="mnist", download=True).read_only().download
  assert Tfds(name="mnist:3.*.*").read_only().name == "mnist:3.*.*"
  with pytest.raises(ValueError, match="namespace 'huggingface'"):
    Tfds(name="huggingface:x").read_only()


def test_a_data_set_imports_no_module(foreign, tmp_path):
  mqar = Mqar(train_examples=2, validation_examples=2, data_dir=str(tmp_path))
  mqar.open("train")
  (path,) = tmp_path.glob("mqar/*/*/features.json")
  text = path.read_text()
  name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
  assert name in text
  path.write_text(text.replace(name, "foreign_one.Settings"))
  with pytest.raises(ValueError, match=r"foreign_one\.Settings"):
    mqar.open("train")
  assert not foreign.exists()


def test_a_config_of_trusted_classes_survives_the_round_trip(finished):
  config = tiny.get_config()
  document = json.loads(json.dumps(serialize.to_json(config)))
  document |= {"$source": "x.py", "$data": {"train": "1"}}
  again = saved.read_config(document)
  assert serialize.to_json(again) == serialize.to_json(config)
  assert dataclasses.replace(again, model=config.model) == config
