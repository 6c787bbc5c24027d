"""Distillation with a frozen teacher inside the step."""

import dataclasses
import functools
import os
import shutil

import jax
import numpy as np
import pytest

from tests.train import tiny
from tests.train.tasks import B, L, config_of, reader_of_text
from tests.train.test_losses import assert_same
from train import checkpoint, evaluate, loop
from train.config import SGD, Mesh
from train.devices.strategy import make_strategy
from train.errors import UserError
from train.losses import Distillation, NextToken
from train.losses.base import keywords
from train.setup import make_learner
from train.state import init_state

MESH = Mesh(data=2, fsdp=2, sequence=2)


@functools.cache
def initial(vocab):
  model = reader_of_text(vocab, width=16)
  tokens = np.zeros((1, L), np.int32)
  return jax.device_get(jax.jit(model.init)(jax.random.key(7), tokens))


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A teacher given in Python: wider than the student, not trained."""

  vocab: int = tiny.VOCAB

  def load(self):
    model = reader_of_text(self.vocab, width=16)
    # Otherwise all tokens have nearly the same probability.
    params = dict(initial(self.vocab)["params"])
    table = params["embedding"]["table"]
    params["embedding"] = {"table": 30 * table}
    return model, {"params": params}


@functools.cache
def batch_of(data, with_logits):
  rows = [data.open("train")[i] for i in range(B)]
  batch = jax.tree.map(lambda *x: np.stack(x), *rows)
  if with_logits:
    model, variables = Drawn().load()
    apply = jax.jit(model.apply)
    logits, _ = apply(variables, batch["inputs"], **keywords(batch))
    batch["teacher_logits"] = np.asarray(logits)
  return batch


def trained(loss, strategy="jit", mesh=None, accumulation=1):
  """Two steps: the last state and metrics, and the sums of a validation."""
  config = config_of(loss, "tokens", accumulation=accumulation)
  # Adam would enlarge the rounding of small gradients.
  optimizer = SGD(learning_rate=0.1, warmup_steps=0)
  config = dataclasses.replace(config, optimizer=optimizer)
  batch = batch_of(config.data, loss.teacher is None)
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, 0, L)
  made = make_strategy(strategy, learner, mesh=mesh)
  given, state = made.batch(batch), made.prepare(state)
  for _ in range(2):
    state, metrics = made.step(state, given)
  sums = made.evaluate(state, given)
  return jax.device_get((made.saved(state), metrics, sums))


@functools.cache
def expected():
  """With the logits of the same teacher in the batch, on one device."""
  return trained(Distillation(temperature=2.0, share=0.7))


@pytest.mark.parametrize(
  ("options", "layout"),
  [
    ({}, ()),
    pytest.param({"accumulation": 2}, ("jit", MESH), marks=pytest.mark.slow),
    pytest.param({}, ("pmap", Mesh(data=2)), marks=pytest.mark.slow),
    pytest.param({}, ("jit", Mesh(data=2, fsdp=2)), marks=pytest.mark.slow),
    pytest.param({"chunk_size": 3}, (), marks=pytest.mark.slow),
    pytest.param({"chunk_size": 2}, ("jit", MESH), marks=pytest.mark.slow),
  ],
)
def test_a_teacher_inside_the_step_equals_its_logits_in_the_batch(
  options, layout
):
  loss = Distillation(
    temperature=2.0,
    share=0.7,
    teacher=Drawn(),
    chunk_size=options.get("chunk_size"),
  )
  assert "divergence" in expected()[1] and expected()[1]["divergence"] > 0.1
  found = trained(loss, *layout, accumulation=options.get("accumulation", 1))
  assert_same(found, expected())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A finished run, the teacher, and its student's config."""
  folder = tmp_path_factory.mktemp("runs")
  teacher = str(folder / "teacher")
  config = config_of(NextToken(), "tokens")
  longer = dataclasses.replace(config, optimizer=endless(config.optimizer))
  loop.run(dataclasses.replace(longer, steps=2), teacher)
  student = dataclasses.replace(longer, loss=Distillation(teacher=teacher))
  return folder, longer, student


def endless(optimizer):
  schedule = dataclasses.replace(optimizer.schedule, end_step=9)
  return dataclasses.replace(optimizer, schedule=schedule)


@pytest.mark.slow
def test_a_student_resumes_bit_for_bit_and_only_with_its_teacher(runs, capsys):
  folder, teaching, student = runs
  cut, uncut, teacher = (
    str(folder / name) for name in ("cut", "uncut", "teacher")
  )
  loop.run(dataclasses.replace(student, steps=2), cut)
  resumed, whole = loop.run(student, cut), loop.run(student, uncut)
  jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
  assert resumed.metrics == whole.metrics
  assert resumed.metrics["divergence"] > 0
  # The teacher is no part of a checkpoint.
  saved = checkpoint.load(cut, "latest", print)
  count = sum(x.size for x in jax.tree.leaves(saved.state["params"]))
  assert count == sum(x.size for x in jax.tree.leaves(whole.params))
  assert set(saved.state) == {
    "step",
    "params",
    "variables",
    "opt_state",
    "rng",
    "stopped",
  }
  assert saved.config["$teacher"]["step"] == 2
  assert evaluate._run(["--workdir", cut]) == 0
  assert "divergence" in capsys.readouterr().out

  longer = dataclasses.replace(student, steps=6)
  loop.run(dataclasses.replace(teaching, steps=4), teacher)
  with pytest.raises(UserError) as error:
    loop.run(longer, cut)
  message = str(error.value)
  assert "that was at step 2, this is at step 4" in message
  assert "set config.loss.teacher_step to '2'" in message
  assert "\n" not in message
  # The fix in the message works, and a teacher may move to another folder.
  moved = shutil.move(teacher, folder / "moved")
  loss = Distillation(teacher=str(moved), teacher_step="2")
  assert loop.run(dataclasses.replace(longer, loss=loss), cut).step == 6
  with pytest.raises(UserError, match="began with a teacher and the config"):
    loop.run(dataclasses.replace(longer, loss=Distillation()), cut)
  with pytest.raises(UserError, match=r"teacher: there is no checkpoint"):
    loop.run(longer, cut)
  os.rename(moved, teacher)


@pytest.mark.parametrize(
  ("teacher", "match"),
  [
    (Drawn(vocab=30), r"teacher's logits have shape .* 30\), the model's"),
    ("nowhere", "config.loss.teacher: there is no checkpoint in nowhere"),
    (3, "config.loss.teacher: AttributeError: 'int' object has no attribute"),
  ],
)
def test_a_wrong_teacher_is_one_line(teacher, match, tmp_path):
  config = config_of(Distillation(teacher=teacher), "tokens")
  with pytest.raises(UserError, match=match) as error:
    loop.run(config, str(tmp_path))
  assert "\n" not in str(error.value)
