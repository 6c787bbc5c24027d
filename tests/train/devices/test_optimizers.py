"""Every optimizer on every layout of devices, and in a run that resumes."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train import checkpoint, evaluate, generate
from train.command import main_with_errors
from train.config import (
  SGD,
  STATE_SPACE,
  Adafactor,
  AdamW,
  Lion,
  Mesh,
  Muon,
  Sample,
  ScheduleFreeAdamW,
)
from train.data import Batches
from train.devices.mesh import make_mesh, shardings
from train.devices.strategy import make_strategy
from train.errors import UserError
from train.loop import run
from train.metrics import read_metrics
from train.optimizer import averaging_state
from train.saved_variables import saved_params
from train.setup import make_learner
from train.state import init_state, initial_state


@dataclasses.dataclass(frozen=True)
class Mine:
  """An optimizer of a user, with an average that optax has."""

  def transformation(self, steps):
    del steps
    adam = optax.scale_by_adam(b1=0.0)
    step = optax.chain(adam, optax.scale_by_learning_rate(0.01))
    return optax.contrib.schedule_free(step, 0.01)


RATES = {"learning_rate": 0.01, "warmup_steps": 2}
OPTIMIZERS = {
  "adamw": AdamW(**RATES, ema=0.9, groups=(STATE_SPACE,)),
  "noise": AdamW(**RATES, noise=1e-4, sam_radius=0.05, ema=0.9),
  "lion": Lion(warmup_steps=2, learning_rate=1e-3),
  "sgd": SGD(**RATES, nesterov=True),
  "adafactor": Adafactor(**RATES, min_factored=8, momentum=0.9),
  "muon": Muon(**RATES),
  "schedule_free": ScheduleFreeAdamW(**RATES),
  "mine": Mine(),
}
LAYOUTS = {
  "pmap": ("pmap", Mesh(data=4)),
  "mesh": ("jit", Mesh(data=2, fsdp=2)),
}


SLOW = pytest.mark.slow


def scanned():
  options = {"mamba2": {"head_width": 8, "state_width": 4}}
  return LanguageModel(
    tiny.VOCAB, 16, 2, ("mamba2",), options, mlp="mlp", scan_layers=True
  )


def train(config, layout, steps=4):
  """Losses of steps on one batch, that of another one, and the last state."""
  name, mesh = layout
  learner = make_learner(config)
  strategy = make_strategy(name, learner, mesh=mesh)
  drawn = init_state(learner.model, learner.optimizer, 0, 16)
  state = strategy.prepare(jax.device_get(drawn))
  batches = Batches(config.data.open("train"), 8, seed=0)
  batch, losses = next(batches), []
  for _ in range(steps):
    state, metrics = strategy.step(state, strategy.batch(batch))
    assert metrics["finite"]
    losses.append(float(metrics["loss"]))
  sums = strategy.evaluate(state, strategy.batch(next(batches)))
  return losses, float(sums["loss"] / sums["weight"]), strategy.saved(state)


def configured(name, model):
  return dataclasses.replace(
    tiny.get_config(),
    model=model,
    data=tiny.Data(length=16, document=7),
    optimizer=OPTIMIZERS[name],
  )


def pairs(state):
  """Arrays of the optimizer that have the path and shape of a parameter."""
  params = jax.tree_util.tree_leaves_with_path(state.params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
    for own, param in params:
      if path[-len(own) :] == own and leaf.shape == param.shape:
        yield leaf, param


def slow_but(*names):
  """Pairs of all optimizers and marks: `test-all` has those not named."""
  others = SLOW, pytest.mark.exhaustive
  return [(name, () if name in names else others) for name in OPTIMIZERS]


# By default, Muon stands for steps that read whole matrices, and schedule_free
# for an average that the state holds in another form.
ON_LAYOUTS = slow_but("adamw", "muon")
RESUMED = slow_but("adamw", "schedule_free")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_keeps_is_cut_like_the_parameters(name):
  learner = make_learner(configured(name, scanned()))
  draw = initial_state(learner.model, learner.optimizer, 16)
  state = jax.eval_shape(draw, np.uint32(0))
  places = shardings(make_mesh(Mesh(data=2, fsdp=2)), state)
  placed = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    state,
    places,
  )
  cut = 0
  for leaf, param in pairs(placed):
    assert leaf.sharding == param.sharding
    cut += leaf.sharding.spec != PartitionSpec()
  # The matrices of the mixer, of the MLP, and the embedding.
  assert cut >= 5


@pytest.mark.parametrize(
  ("name", "model"),
  [
    *(
      pytest.param(name, tiny.Model(), marks=marks)
      for name, marks in ON_LAYOUTS
    ),
    *(
      pytest.param(
        name,
        scanned(),
        marks=SLOW if name == "adamw" else (SLOW, pytest.mark.exhaustive),
      )
      for name in OPTIMIZERS
    ),
  ],
)
def test_an_optimizer_trains_alike_on_every_layout(name, model):
  config = configured(name, model)
  losses, validation, _ = train(config, ("jit", Mesh()))
  assert losses[-1] < losses[0]
  for layout in LAYOUTS.values():
    others, other, state = train(config, layout)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    np.testing.assert_allclose(other, validation, rtol=1e-5)
    if layout[0] == "jit":
      for leaf, param in pairs(state):
        assert leaf.sharding.is_equivalent_to(param.sharding, leaf.ndim)


def evaluated(workdir, step, capfd):
  """The loss that the command prints."""
  words = (f"--workdir={workdir}", f"--step={step}", "--trust=" + __name__)
  assert main_with_errors(evaluate._run, words) == 0
  _, names, values, *_ = capfd.readouterr().out.splitlines()
  return float(dict(zip(names.split(), values.split(), strict=True))["loss"])


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=marks) for name, marks in RESUMED]
)
def test_a_run_resumes_bit_for_bit_and_is_evaluated_alike(
  name, tmp_path, capfd
):
  config = dataclasses.replace(
    tiny.get_config(), optimizer=OPTIMIZERS[name], steps=6
  )
  whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
  result = run(config, whole)
  shutil.copytree(whole, cut)
  shutil.rmtree(os.path.join(cut, "checkpoints", "6"))
  run(config, cut)
  states = [checkpoint.load(x, "6", print).state for x in (whole, cut)]
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(a, b)
  lines = [m for m in read_metrics(whole) if m["split"] == "validation"]
  assert lines[-1]["step"] == 6
  loss = lines[-1]["loss"]
  capfd.readouterr()
  np.testing.assert_allclose(evaluated(whole, 6, capfd), loss, rtol=1e-5)
  # What is sampled from, and what the command evaluates, is the average.
  found = saved_params(config, states[0])
  for a, b in zip(*map(jax.tree.leaves, (found, result.params)), strict=True):
    np.testing.assert_array_equal(a, b)
  words = (f"--workdir={whole}", "--prompt=a", "--length=9", "--temperature=0")
  assert main_with_errors(generate._run, (*words, "--trust=" + __name__)) == 0
  sample = Sample(length=9, temperature=0.0)
  wanted = "".join(
    generate.continuation(config, {"params": found}, b"a", sample)
  )
  assert capfd.readouterr().out == wanted + "\n"
  own = jax.tree.leaves(states[0]["params"])
  is_own = all(map(np.array_equal, jax.tree.leaves(found), own))
  assert is_own == (averaging_state(made(config)) is None)


def made(config):
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, 0, 12)
  return state.opt_state


def test_a_run_may_grow_if_its_schedule_does_not_depend_on_the_steps(tmp_path):
  config = dataclasses.replace(
    tiny.get_config(), steps=2, optimizer=ScheduleFreeAdamW(**RATES)
  )
  run(config, str(tmp_path))
  assert run(dataclasses.replace(config, steps=3), str(tmp_path)).step == 3
  bound = dataclasses.replace(tiny.get_config(), steps=2)
  folder = str(tmp_path / "bound")
  run(bound, folder)
  with pytest.raises(UserError, match=r"config\.steps was 2 and is 3"):
    run(dataclasses.replace(bound, steps=3), folder)
