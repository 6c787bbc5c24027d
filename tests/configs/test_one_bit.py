"""The configs of one bit: valid, sharded, and taught by their teacher."""

import ast
import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from benchmarks.examples import one_bit
from jaxmodels.mixers import Mamba2
from tests.train.test_losses import assert_same
from train import load, loop
from train.config import SGD, Mesh, validate
from train.config import command_line as files
from train.data import Text
from train.devices.strategy import make_strategy
from train.losses import Distillation
from train.setup import make_learner
from train.state import init_state

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("student", "distilled")


def config_of(name):
  return files.load(str(ROOT / "configs" / "one_bit" / f"{name}.py"))


def small(config, **fields):
  """A config with a narrow model, and the text of this repository."""
  mixers = (Mamba2(32, head_width=16, state_width=8, one_bit=True),)
  return dataclasses.replace(
    config,
    model=config.model.clone(width=32, mixers=mixers),
    data=Text(length=32, path=str(ROOT / "jaxmodels" / "mixers")),
    log_every=10,
    **fields,
  )


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_and_names_its_command(name):
  config = config_of(name)
  validate(config, devices=1, processes=1)
  assert all(mixer.one_bit for mixer in config.model.mixers)
  path = f"configs/one_bit/{name}.py"
  assert path in ast.get_docstring(ast.parse((ROOT / path).read_text()))


def test_only_the_loss_tells_the_students_apart():
  alone, taught = map(config_of, NAMES)
  assert isinstance(taught.loss, Distillation) and taught.loss.share == 1
  assert dataclasses.replace(taught, loss=alone.loss) == alone


@pytest.mark.slow
def test_a_sharded_step_equals_that_of_one_device():
  config = small(config_of("student"), optimizer=SGD(learning_rate=0.1))
  data = config.data.open("train")
  batch = jax.tree.map(lambda *x: np.stack(x), *(data[i] for i in range(4)))
  learner = make_learner(config)
  found = []
  for mesh in (None, Mesh(data=2, fsdp=2)):
    strategy = make_strategy("jit", learner, mesh=mesh)
    state = init_state(learner.model, learner.optimizer, 0, 32)
    given, state = strategy.batch(batch), strategy.prepare(state)
    for _ in range(2):
      state, metrics = strategy.step(state, given)
    found.append(jax.device_get((strategy.saved(state), metrics)))
  assert_same(*found)


@pytest.mark.slow
def test_a_taught_student_is_nearer_to_its_teacher(tmp_path):
  """The table has its packed weights, and its teacher's, binarised."""
  fields = {"steps": 120, "eval_every": 120, "checkpoint_every": 120}
  teacher, metrics = str(tmp_path / "teacher"), {}
  plain = small(config_of("student"), **fields)
  mixers = tuple(m.clone(one_bit=False) for m in plain.model.mixers)
  model = plain.model.clone(mixers=mixers)
  loop.run(dataclasses.replace(plain, model=model), teacher)
  for share in (0.0, 1.0):
    loss = Distillation(teacher=teacher, share=share)
    loop.run(dataclasses.replace(plain, loss=loss), str(tmp_path / str(share)))
    metrics[share] = load(tmp_path / str(share)).metrics
  assert metrics[1.0]["divergence"] < 0.9 * metrics[0.0]["divergence"]
  found = [*one_bit.rows(teacher), *one_bit.rows(str(tmp_path / "1.0"))]
  _, bits, variables, changes = zip(*found, strict=True)
  assert bits[1] > bits[0] + 0.1  # Binarised without training.
  assert bits[2] == pytest.approx(metrics[1.0]["bits_per_byte"], rel=1e-4)
  assert changes[0] is None and max(changes[1:]) < 1e-4
  large, *packed = (one_bit.size(x) for x in variables)
  assert packed[0] == packed[1] < large / 2
