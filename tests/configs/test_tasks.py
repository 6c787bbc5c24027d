"""The configs of the literature's small tasks train, and say what to expect."""

import ast
import dataclasses
import json
import pathlib

import pytest

from train import loop
from train.config import validate
from train.config.command_line import load

ROOT = pathlib.Path(__file__).parents[2]
TASKS = ROOT / "configs" / "tasks"
PATHS = sorted(set(TASKS.glob("*.py")) - {TASKS / "__init__.py"})

over_tasks = pytest.mark.parametrize(
  "path", PATHS, ids=[path.stem for path in PATHS]
)


def shrunk(settings, **sizes):
  """Settings of data, and those that they contain, with other sizes."""
  changes = {}
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if field.name in sizes:
      changes[field.name] = sizes[field.name]
    elif dataclasses.is_dataclass(value):
      changes[field.name] = shrunk(value, **sizes)
  return dataclasses.replace(settings, **changes)


@over_tasks
def test_a_config_is_valid_and_names_its_command(path):
  config = load(str(path))
  validate(config, devices=1, processes=1)
  assert config.sample.length == 0
  text = ast.get_docstring(ast.parse(path.read_text()))
  assert f"configs/tasks/{path.name}" in text
  assert "chance" in text.lower()


@pytest.mark.slow
@over_tasks
def test_two_steps_of_a_config(path, tmp_path):
  config = load(str(path))
  data = shrunk(
    config.data,
    train_examples=8,
    validation_examples=4,
    data_dir=str(tmp_path / "data"),
  )
  config = dataclasses.replace(
    config, data=data, steps=2, batch_size=4, log_every=1, eval_batches=1
  )
  loop.run(config, str(tmp_path / "run"))
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  values = [json.loads(line) for line in lines]
  assert {line["split"] for line in values} >= {"train", "validation"}
  assert values[-1]["step"] == 2
