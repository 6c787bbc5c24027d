"""A config file with a mistake ends in one line."""

import pytest

from tests.train.refusals import refused, unchanged_copy
from train import __main__ as train
from train.command import main_with_errors


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory):
  """A copy of a run; nothing in it may change."""
  yield from unchanged_copy(finished, tmp_path_factory)


FILES = {
  "def get_config(:": "line 1: SyntaxError",
  "x = 1\nimport nosuchmodule": "line 2: ModuleNotFoundError",
  "\nfoo": "line 2: NameError: name 'foo' is not defined",
  "from train.config import nosuch": "line 1: ImportError",
  "raise SystemExit(3)": "line 1: SystemExit",
  "1 / 0": "line 1: ZeroDivisionError",
  "x = 1": "has no function get_config()",
  "get_config = 3": "TypeError",
  "def get_config():\n  return {}": "must return a Config, not dict",
  "def get_config(x):\n  return x": "missing 1 required positional",
  "def get_config():\n  return {}['x']": "line 2: KeyError: 'x'",
  "def get_config():\n  raise SystemExit": "line 2: SystemExit",
  "def get_config():\n  return get_config()": "RecursionError",
  "def get_config():\n  raise OSError('a\\nb')": "line 2: OSError: a b",
}

FIELDS = {
  "steps='10'": "config.steps is '10', but must be of type int",
  "steps=10.5": "config.steps is 10.5, but must be of type int",
  "steps=True": "config.steps is True, but must be of type int",
  "steps=10**5000": "config.steps is a number of thousands of digits",
  "steps=None": "config.steps is None",
  "seed=10**400": "config.seed",
  "model=None": "config.model is None, but must be of type Module",
  "model=tiny.Model": "config.model",
  "data=None": "config.data is None, but must be one of train.data",
  "data=tiny.Data": "config.data",
  "optimizer=None": "config.optimizer is None, but must be one of train.config",
  "optimizer=AdamW(learning_rate='1')": "config.optimizer.learning_rate",
  "optimizer=AdamW(clip=10**400)": "config.optimizer.clip is 1000",
  "optimizer=AdamW": "config.optimizer is <class",
  "optimizer=tiny.Data()": "config.optimizer is Data(",
  "optimizer=AdamW(decay_paths='*/kernel')": "config.optimizer.decay_paths",
  "optimizer=AdamW(decay_paths=(1,))": "config.optimizer.decay_paths",
  "optimizer=AdamW(schedule='cosine')": "config.optimizer.schedule is 'cosine'",
  "optimizer=AdamW(schedule=Cosine(floor='1'))": "config.optimizer.schedule.f",
  "mesh={'data': 2}": "config.mesh is {'data': 2}, but must be of type Mesh",
  "sample='a'": "config.sample is 'a', but must be of type Sample",
  "sample=Sample(prompt=b'a')": "config.sample.prompt",
  "sample=Sample(prompt='\\ud800')": "config.sample.prompt",
  "debug=1": "config.debug is 1, but must be of type bool",
  "nosuch=1": "unexpected keyword argument 'nosuch'",
  "model=tiny.Model(mixer_options={1: 2})": "options are named by strings",
  "model=tiny.Model(mixer_options={'get': 2})": "config.model: KeyError: 'sum'",
}

HEAD = """
import dataclasses
from tests.train import tiny
from train.config import *

def get_config():
  return dataclasses.replace(tiny.get_config(), {})
"""


@pytest.mark.parametrize(
  ("text", "part"),
  [*FILES.items(), *((HEAD.format(f), part) for f, part in FIELDS.items())],
)
def test_a_wrong_config_file(text, part, tmp_path, workdir, capfd):
  path = tmp_path / "wrong_config.py"
  path.write_text(text)
  words = (f"{path}", f"--workdir={workdir}")
  error = refused_file(words, capfd)
  assert part in error


def refused_file(words, capfd):
  assert main_with_errors(train._run, words) == 2
  error = capfd.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1, error
  return error


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("not_text.py", b"x = '\xff\xfe'"),
    ("null.py", b"x = 1\0"),
    ("README.md", b"# a page"),
    ("no_suffix", b""),
    ("folder.py", None),
  ],
)
def test_a_file_that_is_no_config(name, content, tmp_path, workdir, capfd):
  path = tmp_path / name
  path.mkdir() if content is None else path.write_bytes(content)
  words = (f"{path}", f"--workdir={workdir}")
  assert name in refused_file(words, capfd)


@pytest.mark.parametrize("path", ["", "nosuch.py", "gs://x/y.py", "a\0b.py"])
def test_a_missing_config_is_named(path, workdir, capfd):
  words = (f"{path}", f"--workdir={workdir}")
  assert "config" in refused(train._run, words, capfd)
