import dataclasses
import functools
import json
import math
import os
import shutil
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import LanguageModel
from tests.train import tiny
from tests.train.tasks import TASKS, B, C, L, config_of, language
from train import evaluate
from train.command import main_with_errors
from train.config import Mesh, Sample
from train.data import Arrays, Mixture, Text
from train.data.dataset import at_length, sequence_arrays
from train.devices.strategy import make_strategy
from train.evaluation import cases, positions
from train.evaluation.positions import ByPosition, edges, separated
from train.evaluation.table import as_json, tables
from train.loop import run
from train.losses import Classification, Distillation, Loss, NextToken
from train.setup import make_learner
from train.state import init_state


@dataclasses.dataclass(frozen=True)
class Margin(Loss):
  """A user's own loss per token, with a metric of its own."""

  best: ClassVar = {"loss": "min"}

  def sums(self, outputs, batch):
    size = jnp.abs(outputs).max(axis=-1)
    weights = batch["weights"]
    return {
      "loss": jnp.sum(size * weights),
      "double": jnp.sum(2 * size * weights),
      "weight": jnp.sum(weights),
    }


@dataclasses.dataclass(frozen=True)
class Squared(Margin):
  """A loss that is not linear in the weights."""

  def sums(self, outputs, batch):
    found = super().sums(outputs, batch)
    return {**found, "loss": jnp.square(found["loss"])}


def by_hand(loss, logits, batch):
  """Means per position, in float64, from logits `[B, L, V]`."""
  logits = np.asarray(logits, np.float64)
  if isinstance(loss, Margin):
    terms = {"loss": np.abs(logits).max(-1)}
    terms["double"] = 2 * terms["loss"]
  else:
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    terms = {"loss": nll, "bits_per_token": nll / math.log(2)}
    terms["accuracy"] = logits.argmax(-1) == batch["targets"]
  if isinstance(loss, Distillation):
    teacher = np.asarray(batch["teacher_logits"], np.float64)
    known = teacher - np.log(np.exp(teacher).sum(-1, keepdims=True))
    terms["divergence"] = (np.exp(known) * (known - log_p)).sum(-1)
    terms["loss"] = 0.5 * terms["divergence"] + 0.5 * nll
  weight = batch["weights"].sum(0)
  found = {k: (x * batch["weights"]).sum(0) / weight for k, x in terms.items()}
  return {**found, "targets": weight}


@pytest.mark.parametrize(
  "loss",
  [NextToken(), NextToken(chunk_size=5), Distillation(chunk_size=4), Margin()],
  ids=lambda loss: f"{type(loss).__name__}",
)
def test_metrics_per_position_are_those_by_hand(loss):
  model, variables, batch = language()
  made = ByPosition(loss)

  @jax.jit
  def sums(variables, batch):
    outputs, _ = made.outputs(model, variables, batch, mutable=[])
    return made.sums(outputs, batch)

  found = jax.device_get(sums(variables, batch))
  assert positions.add_up(found)
  whole, per_position = separated(made.means(found))

  @jax.jit
  def plain(variables, batch):
    outputs, _ = loss.outputs(model, variables, batch, mutable=[])
    return loss.sums(outputs, batch), model.apply(variables, batch["inputs"])[0]

  once, logits = jax.device_get(plain(variables, batch))
  expected = loss.means(once)
  assert whole.keys() == expected.keys()
  for name, value in whole.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-6)
  for name, values in by_hand(loss, logits, batch).items():
    np.testing.assert_allclose(per_position[name], values, rtol=2e-5, atol=1e-6)


def sums_of(name, strategy="jit", mesh=None):
  """Sums of one batch, whole and per position."""
  loss, kind = TASKS[name]
  config = dataclasses.replace(config_of(loss, kind), loss=ByPosition(loss))
  rows = config.data.open("train")
  learner = make_learner(config)._replace(
    sequence=sequence_arrays(rows, rows[0])
  )
  state = init_state(learner.model, learner.optimizer, 0, rows[0])
  made = make_strategy(strategy, learner, mesh=mesh)
  batch = jax.tree.map(lambda *x: np.stack(x), *[rows[i] for i in range(B)])
  return jax.device_get(made.evaluate(made.prepare(state), made.batch(batch)))


@pytest.mark.parametrize(
  "layout",
  [
    pytest.param(("pmap", Mesh(data=2)), marks=pytest.mark.slow),
    ("jit", Mesh(data=2, fsdp=2, sequence=2)),
  ],
  ids=["pmap", "mesh"],
)
@pytest.mark.parametrize(
  "name", ["chunks", pytest.param("token", marks=pytest.mark.slow)]
)
def test_every_mesh_finds_the_same_per_position(name, layout):
  found, expected = sums_of(name, *layout), sums_of(name)
  assert found.keys() == expected.keys()
  assert positions.add_up(found)
  for key, value in expected.items():
    assert value.shape == ((L,) if key.startswith(positions.PREFIX) else ())
    np.testing.assert_allclose(found[key], value, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [Squared(), Classification()])
def test_a_loss_that_is_not_per_token_has_none_per_position(loss):
  kind = "class" if isinstance(loss, Classification) else "token"
  config = config_of(loss, kind)
  rows = config.data.open("validation")
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, 0, rows[0])
  case = cases.make_case(config, state, "run", "validation", rows)
  found = evaluate.measure(
    case.strategy, case.strategy.prepare(state), rows, case.batch_size, 1
  )
  assert math.isfinite(found.values["loss"])
  assert found.positions is None and found.buckets is None
  if kind == "token":
    assert found.confusion is None
    return
  expected = np.zeros((C, C))
  variables = {"params": state.params, **state.variables}
  for row in (rows[i] for i in range(B)):
    outputs, _ = config.model.apply(variables, row["inputs"][None])
    predicted = outputs[0][row["mask"]].mean(0).argmax()
    expected[row["targets"], predicted] += 1
  np.testing.assert_array_equal(found.confusion, expected)
  share = np.trace(expected) / B
  assert found.values["accuracy"] == pytest.approx(share)
  text = tables([as_json("run", "validation", L, found, {})])
  one = expected.sum(1).argmax()
  share = expected[one, one] / expected[one].sum()
  header, line = text.split("accuracy by class")[1].split("\n")[1:3]
  place = header.split().index(str(one))
  assert float(line.split()[place]) == pytest.approx(share, rel=1e-5)


def test_buckets_grow_fourfold():
  assert [edges(length) for length in (1, 2, 4, 5, 100)] == [
    [0, 1],
    [0, 1, 2],
    [0, 1, 4],
    [0, 1, 4, 5],
    [0, 1, 4, 16, 64, 100],
  ]


def test_data_say_how_they_are_opened_at_another_length():
  mixed = Mixture((Text(length=8), Mixture((Text(length=8),))))
  found = at_length(mixed, 32)
  assert found.sources[0] == Text(length=32)
  assert found.sources[1].sources[0] == Text(length=32)
  with pytest.raises(ValueError, match="Arrays cannot be opened at another"):
    at_length(Arrays(), 32)


def ran(workdir, capfd, *words):
  """Runs the command: exit code, and what it has printed and written."""
  path = os.path.join(workdir, evaluate.FILE_NAME)
  if os.path.exists(path):
    os.unlink(path)
  code = main_with_errors(evaluate._run, (str(workdir), *words))
  printed = capfd.readouterr()
  if not os.path.exists(path):
    return code, printed, None
  with open(path) as file:
    return code, printed, json.load(file)


CONFIG = """
import dataclasses
from tests.train import tiny

def get_config():
  return dataclasses.replace(tiny.get_config(), data=tiny.Data(size=20))
"""


def test_several_lengths_splits_and_data_sets(finished, tmp_path, capfd):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  (tmp_path / "other.py").write_text(CONFIG)
  words = ("--lengths", "5", "12", "30", "--split", "validation", "train")
  words = (*words, f"--data.other={tmp_path}/other.py")
  words = (*words, "--data.short.document", "3", "--data.short.size=20")
  code, printed, document = ran(workdir, capfd, *words)
  assert (code, printed.err) == (0, "")
  rows = {(r["data"], r["split"], r["length"]): r for r in document["rows"]}
  assert len(rows) == 3 * 2 * 3 and document["trained_length"] == 12
  for (name, split, length), row in rows.items():
    # The printed table has a row for each row of the file.
    assert any(
      line.split()[:4]
      == [name, split, str(length), f"{row['metrics']['loss']:.6g}"]
      for line in printed.out.splitlines()
    )
    count = 11 if split == "validation" else 50 if name == "run" else 20
    assert row["metrics"]["tokens"] == count * length
    data = tiny.Data(
      length,
      50 if name == "run" else 20,
      document=3 if name == "short" else None,
    )
    loss, accuracy = expected(finished[1].params, data.open(split))
    for found, wanted in (
      (row["positions"]["loss"], loss),
      (row["positions"]["accuracy"], accuracy),
    ):
      np.testing.assert_allclose(
        np.array(found, float), wanted, rtol=2e-5, atol=1e-6
      )
  trained = rows["run", "validation", 12]["metrics"]
  assert trained["loss"] == pytest.approx(finished[1].metrics["loss"])
  assert trained.keys() == finished[1].metrics.keys()


@functools.cache
def compiled():
  return jax.jit(tiny.Model().apply)


def expected(params, rows):
  """Loss and accuracy per position, by a plain call of the model."""
  batch = {k: np.stack([rows[i][k] for i in range(len(rows))]) for k in rows[0]}
  logits, _ = compiled()(
    {"params": params}, batch["inputs"], segment_ids=batch["segment_ids"]
  )
  found = by_hand(NextToken(), logits, batch)
  return found["loss"], found["accuracy"]


@pytest.mark.parametrize(
  ("words", "part"),
  [
    (("--lengths", "0"), "--lengths is 0"),
    (("--lengths", "x"), "must be a tuple of int"),
    (
      ("--lengths", "1"),
      "config.data with --lengths 1: length must be at least 2",
    ),
    (("--data.x.length", "1"), "--data.x: length must be at least 2"),
    (("--data.x.lenth", "8"), "did you mean --data.x.length"),
    (("--data.x", "none.py"), "no config file none.py"),
    (("--data.run.length", "8"), "--data.run: the name of a data set must be"),
    (("--data.x.vocab_size=300",), "300 different tokens, but the model"),
    (("--json=tests",), "--json=tests is a directory"),
  ],
)
def test_wrong_words_end_in_one_line(finished, tmp_path, capfd, words, part):
  code, printed, document = ran(finished[0], capfd, *words)
  assert code == 2 and document is None and not printed.out
  assert part in printed.err and printed.err.count("\n") == 1


def test_a_model_with_a_bound_refuses_longer_sequences(tmp_path, capfd):
  options = {"heads": 2, "max_length": 16}
  config = dataclasses.replace(
    tiny.get_config(),
    model=LanguageModel(
      tiny.VOCAB, 8, 1, (("softmax_attention", options),), mlp="none"
    ),
    steps=1,
    sample=Sample(length=0),
  )
  workdir = str(tmp_path / "run")
  run(config, workdir)
  capfd.readouterr()
  words = ("--trust", "tests.train.tiny", "--lengths", "8", "17")
  code, printed, document = ran(workdir, capfd, *words)
  assert code == 2 and document is None and not printed.out
  assert "cannot read the data run at length 17" in printed.err
  assert "max_length is 16" in printed.err and printed.err.count("\n") == 1


def test_a_read_only_run_is_evaluated_too(finished, tmp_path, capfd):
  # A folder of that name stands for what cannot be written.
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  path = workdir / evaluate.FILE_NAME
  path.unlink(missing_ok=True)
  path.mkdir()
  words = (f"--workdir={workdir}", "--batches=1")
  assert main_with_errors(evaluate._run, words) == 0
  printed = capfd.readouterr()
  assert "loss by position" in printed.out
  assert printed.err.startswith("warning: the results are not saved")
  words = (*words, f"--json={tmp_path}/new/found.json")
  assert main_with_errors(evaluate._run, words) == 0
  assert json.loads((tmp_path / "new/found.json").read_text())["step"] == 12
  assert not capfd.readouterr().err
