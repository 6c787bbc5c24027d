"""The configs of point clouds and of speech train, and say what to expect."""

import ast
import dataclasses
import json
import math
import pathlib

import pytest

from train import loop
from train.config import validate
from train.config.command_line import load

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PATHS = [
  path
  for folder in ("points", "speech")
  for path in sorted((CONFIGS / folder).glob("*.py"))
  if path.name != "__init__.py"
]

over_configs = pytest.mark.parametrize(
  "path", PATHS, ids=[path.stem for path in PATHS]
)


@over_configs
def test_a_config_is_valid_and_names_its_command_and_baselines(path):
  validate(load(str(path)), devices=1, processes=1)
  text = ast.get_docstring(ast.parse(path.read_text()))
  assert f"configs/{path.parent.name}/{path.name}" in text
  assert "python -m benchmarks." in " ".join(text.split())


@pytest.mark.slow
@over_configs
def test_two_steps_of_a_config(path, tmp_path):
  config = load(str(path))
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, validation_examples=4),
    steps=2,
    batch_size=4,
    log_every=1,
    eval_every=2,
    eval_batches=1,
    checkpoint_every=2,
  )
  loop.run(config, str(tmp_path / "run"))
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  values = [json.loads(line) for line in lines]
  found = [x for x in values if x.get("split") == "validation"][-1]
  assert math.isfinite(found["loss"])
  assert math.isfinite(found[config.best_metric])
