"""Runs that fail: values that are not finite, a full disk, a wrong command."""

import dataclasses
import errno
import math
import os
import shutil

import jax
import numpy as np
import pytest

from tests.train import tiny
from tests.train.looping import assert_same_run, lines, train
from train import checkpoint, loop
from train import step as pure_step
from train.config import AdamW
from train.data import Batches
from train.errors import NonFiniteError
from train.loop import run


def test_a_loss_that_is_not_finite_stops_and_can_be_repeated(tmp_path, capsys):
  config = tiny.get_config()
  stream = Batches(config.data.open("train"), 8, seed=config.seed)
  rows = [next(stream) for _ in range(6)]
  step = 5
  # The row that is in the batch of step 5 and in none before it.
  inputs = [tuple(row) for row in rows[step - 1]["inputs"]]
  earlier = {tuple(r) for b in rows[: step - 1] for r in b["inputs"]}
  target = next(row for row in inputs if row not in earlier)
  train_split = config.data.open("train")
  index = next(
    i
    for i in range(len(train_split))
    if tuple(train_split[i]["inputs"]) == target
  )
  words = (f"--workdir={tmp_path}", f"--data.infinite={index}")
  assert train(*words) == 1
  first = capsys.readouterr().err
  assert first.startswith("error: step 5 is not finite: loss")
  assert first.count("\n") == 1
  with np.load(tmp_path / "failed-step-5.npz") as saved:
    np.testing.assert_array_equal(saved["inputs"], rows[step - 1]["inputs"])
    assert np.isinf(saved["weights"]).any()
  snapshot = checkpoint.load(str(tmp_path), "latest", pytest.fail)
  assert snapshot.step == 4 and snapshot.position == 32
  for leaf in jax.tree.leaves(snapshot.state):
    assert np.isfinite(leaf).all()
  assert lines(tmp_path)[-1]["step"] == 4
  assert train(*words) == 1
  assert capsys.readouterr().err == first


def test_debug_mode_names_the_check_that_failed(tmp_path, capsys):
  words = (
    f"--workdir={tmp_path}",
    "--debug=True",
    "--model.bad_token=200",
    "--eval_every=100",
  )
  assert train(*words) == 1
  error = capsys.readouterr().err
  assert "a check failed: tiny: x must be finite; the state" in error
  assert error.startswith("error: step ")
  assert error.count("\n") == 1


def test_without_debug_the_same_run_stops_as_not_finite(tmp_path):
  config = dataclasses.replace(
    tiny.get_config(), model=tiny.Model(bad_token=200), steps=3
  )
  with pytest.raises(NonFiniteError, match="is not finite: loss nan"):
    run(config, str(tmp_path))


def full_before(patch):
  """Makes the disk full from the second checkpoint on."""
  usage = shutil.disk_usage

  def full(folder):
    found = usage(folder)
    return found._replace(free=0) if os.listdir(folder) else found

  patch.setattr(shutil, "disk_usage", full)


def full_while(patch):
  """Fails in the thread that writes the third checkpoint."""
  add_checksums = checkpoint.Checkpoints._add_checksums

  def full(self):
    if self._step >= 9:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    add_checksums(self)

  patch.setattr(checkpoint.Checkpoints, "_add_checksums", full)


@pytest.mark.parametrize(("full", "kept"), [(full_before, 3), (full_while, 6)])
def test_a_full_disk_ends_in_one_line_and_keeps_what_was_complete(
  finished, tmp_path, monkeypatch, capsys, full, kept
):
  with monkeypatch.context() as patch:
    full(patch)
    assert train(f"--workdir={tmp_path}") == 1
  error = capsys.readouterr().err
  assert "the disk is full" in error and error.count("\n") == 1
  assert checkpoint.load(str(tmp_path), "latest", pytest.fail).step == kept
  again = run(tiny.get_config(), str(tmp_path))
  assert_same_run(str(tmp_path), again, finished)


@pytest.mark.parametrize(
  ("words", "parts"),
  [
    (("--model.widht=3",), ("--model.width",)),
    (("--model.width=0",), ("config.model: width must be positive",)),
    (("--data.length=1",), ("config.data: length must be at least",)),
    (("--model.vocab_size=9",), ("config.model.vocab_size is 9",)),
    (("--workdir=pyproject.toml/run",), ("--workdir=pyproject.toml/run",)),
  ],
)
def test_a_wrong_command_ends_in_one_line(tmp_path, capsys, words, parts):
  assert train(f"--workdir={tmp_path}", *words) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  for part in parts:
    assert part in error


@pytest.mark.parametrize(
  ("steps", "decay"),
  # Finite in float32, but its product with a parameter is not; and infinite.
  [(1, "3e38"), (4, "3e38"), (1, "inf"), (4, "inf")],
)
def test_an_update_that_overflows_ends_the_run_and_keeps_the_state(
  tmp_path, capsys, steps, decay
):
  words = (
    f"--workdir={tmp_path}",
    f"--steps={steps}",
    f"--optimizer.weight_decay={decay}",
    "--optimizer.learning_rate=100",
    "--optimizer.warmup_steps=0",
  )
  assert train(*words) == 1
  printed = capsys.readouterr()
  assert printed.err.startswith("error: step 1 is not finite: loss 5.")
  assert "update norm" in printed.err and printed.err.count("\n") == 1
  assert f"weight_decay {float(decay)}" in printed.err
  assert "complete" not in printed.out
  snapshot = checkpoint.load(str(tmp_path), "latest", pytest.fail)
  assert snapshot.step == 0
  for leaf in jax.tree.leaves(snapshot.state):
    assert np.isfinite(leaf).all()


def test_a_validation_that_is_nan_ends_the_run(tmp_path, monkeypatch, capsys):
  values = {"loss": math.nan, "bits_per_token": math.nan, "accuracy": 0.0}
  words = (f"--workdir={tmp_path}", "--steps=4")
  true_evaluate = loop.evaluate

  def evaluate(strategy, state, *rest):
    found = true_evaluate(strategy, state, *rest)
    return {**found, **values} if int(state.step) == 4 else found

  monkeypatch.setattr(loop, "evaluate", evaluate)
  for _ in range(2):
    assert train(*words) == 1
    printed = capsys.readouterr()
    assert "validation at step 4 is not finite: loss nan" in printed.err
    assert printed.err.count("\n") == 1 and "complete" not in printed.out
    snapshot = checkpoint.load(str(tmp_path), "latest", pytest.fail)
    assert snapshot.step == 4 and not snapshot.evaluated
    steps = [x["step"] for x in lines(tmp_path) if x["split"] != "model"]
    assert steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("weighted", [False, True])
def test_a_zero_gradient_gives_one_warning(
  tmp_path, monkeypatch, capsys, weighted
):
  sums = pure_step.loss_sums

  def constant(*args, **options):
    found, variables = sums(*args, **options)
    return {
      k: jax.lax.stop_gradient(v) * float(weighted) for k, v in found.items()
    }, variables

  monkeypatch.setattr(pure_step, "loss_sums", constant)
  config = dataclasses.replace(tiny.get_config(), steps=3, eval_every=9)
  run(config, str(tmp_path))
  printed = capsys.readouterr().out.splitlines()
  warnings = [x for x in printed if "gradient of step" in x]
  assert len(warnings) == weighted
  for line in warnings:
    assert line.startswith("warning: the gradient of step 1 is 0, with")


def test_a_failed_step_is_not_saved_through_a_link(tmp_path):
  outside = tmp_path / "outside"
  outside.write_text("stays")
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "failed-step-1.npz").symlink_to(outside)
  config = dataclasses.replace(
    tiny.get_config(),
    optimizer=AdamW(weight_decay=3e38, learning_rate=100.0, warmup_steps=0),
  )
  with pytest.raises(NonFiniteError, match="step 1 is not finite"):
    run(config, str(workdir))
  assert outside.read_text() == "stays"
  with np.load(workdir / "failed-step-1.npz") as saved:
    assert saved["inputs"].shape == (8, 12)
