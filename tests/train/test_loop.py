"""The whole training loop, interrupted in every possible way."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from tests.train import tiny
from tests.train.looping import TIMING, assert_same_run, at_line, lines, train
from train import checkpoint
from train.config import Cosine
from train.errors import UserError
from train.loop import run
from train.metrics import read_metrics


def test_every_line_is_written_once_and_in_order(finished):
  found = [(line["step"], line["split"]) for line in lines(finished[0])]
  expected = [(0, "model"), (0, "validation")]
  for step in range(1, 13):
    expected.append((step, "train"))
    if step % 4 == 0:
      expected.append((step, "validation"))
  assert found == expected
  last = read_metrics(finished[0])[-2]
  assert {"loss", "grad_norm", "learning_rate", *TIMING[:2]} <= set(last)
  assert checkpoint.steps(finished[0]) == [9, 12]
  with open(os.path.join(finished[0], "config.json")) as file:
    assert json.load(file)["steps"] == 12


def test_loss_falls(finished):
  values = [x["loss"] for x in lines(finished[0]) if x["split"] == "validation"]
  assert values[-1] < values[0] - 0.05


@pytest.mark.parametrize(("number", "at"), [("SIGTERM", 5), ("SIGINT", 4)])
def test_a_signal_saves_and_the_same_command_loses_nothing(
  finished, tmp_path, monkeypatch, capsys, number, at
):
  number = getattr(signal, number)
  before = signal.getsignal(number)
  with monkeypatch.context() as patch:
    at_line(patch, at, lambda: os.kill(os.getpid(), number))
    result = run(tiny.get_config(), str(tmp_path))
  assert result.signal == number
  assert signal.getsignal(number) == before
  # The line of step n is written while step n + 1 is under way.
  assert result.step in (at, at + 1)
  assert checkpoint.steps(tmp_path)[-1] == result.step
  assert "the same command resumes" in capsys.readouterr().out
  again = run(tiny.get_config(), str(tmp_path))
  assert f"resuming at step {result.step}" in capsys.readouterr().out
  assert_same_run(str(tmp_path), again, finished)


def test_a_crashed_run_resumes_from_the_last_checkpoint(
  finished, tmp_path, monkeypatch, capsys
):
  def crash():
    raise RuntimeError("power cut")

  with monkeypatch.context() as patch:
    at_line(patch, 8, crash)
    with pytest.raises(RuntimeError, match="power cut"):
      run(tiny.get_config(), str(tmp_path))
  assert lines(tmp_path)[-1]["step"] == 8
  again = run(tiny.get_config(), str(tmp_path))
  assert "resuming at step 6 of 12" in capsys.readouterr().out
  assert_same_run(str(tmp_path), again, finished)


def test_a_changed_config_is_refused_with_the_difference(finished, capsys):
  changes = ("--optimizer.b2=0.9", "--steps=20")
  assert train(f"--workdir={finished[0]}", *changes) == 2
  error = capsys.readouterr().err
  assert "config.optimizer.b2 was 0.95 and is 0.9" in error
  assert "config.steps was 12 and is 20" in error
  assert error.count("\n") == 1


def test_settings_that_do_not_affect_training_can_change(
  finished, tmp_path, capsys
):
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  result = run(
    dataclasses.replace(tiny.get_config(), log_every=5, keep=1), workdir
  )
  assert "is complete, at step 12" in capsys.readouterr().out
  assert result.metrics == finished[1].metrics
  assert lines(workdir) == lines(finished[0])


def test_a_run_with_its_own_schedule_can_be_extended(tmp_path):
  config = tiny.get_config()
  config = dataclasses.replace(
    config,
    steps=2,
    optimizer=dataclasses.replace(
      config.optimizer, schedule=Cosine(end_step=10)
    ),
  )
  longer = dataclasses.replace(config, steps=3)
  run(config, str(tmp_path / "cut"))
  extended = run(longer, str(tmp_path / "cut"))
  whole = run(longer, str(tmp_path / "whole"))
  assert extended.step == 3
  jax.tree.map(np.testing.assert_array_equal, extended.params, whole.params)
  with pytest.raises(UserError, match="already at step 3"):
    run(config, str(tmp_path / "cut"))


def test_a_validation_of_a_stopped_run_is_written_once(
  finished, tmp_path, monkeypatch
):
  def crash():
    raise RuntimeError("power cut")

  workdir = str(tmp_path)
  with monkeypatch.context() as patch:
    # While step 4, where a validation is due, is the last one done.
    at_line(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tiny.get_config(), workdir).step == 4
  with monkeypatch.context() as patch:
    at_line(patch, 5, crash)
    with pytest.raises(RuntimeError, match="power cut"):
      run(tiny.get_config(), workdir)
  assert_same_run(workdir, run(tiny.get_config(), workdir), finished)


def test_the_sizes_of_the_model_are_written_once(finished):
  result = finished[1]
  (line,) = (x for x in read_metrics(finished[0]) if x["split"] == "model")
  leaves = jax.tree.leaves(result.params)
  assert line["parameters"] == sum(x.size for x in leaves)
  state = tiny.get_config().model.init_state(1)
  assert line["state_bytes"] == sum(x.nbytes for x in jax.tree.leaves(state))
  seconds = [
    x["compile_seconds"]
    for x in read_metrics(finished[0])
    if "compile_seconds" in x
  ]
  assert len(seconds) == 1 and seconds[0] > 0


def test_tokens_count_all_tokens_that_the_model_reads(finished):
  for line in read_metrics(finished[0]):
    if line["split"] == "train":
      # The tiny data weigh four fifths of their targets.
      assert line["tokens"] == 8 * 12
      assert 60 < line["targets"] < 90
      rate = line["tokens"] / line["step_seconds"]
      assert line["tokens_per_second"] == pytest.approx(rate)


@pytest.mark.parametrize("name", ["run[1]", "a*b?/**/c"])
def test_a_run_in_a_directory_of_any_name_resumes(finished, tmp_path, name):
  workdir = str(tmp_path / name)
  shutil.copytree(finished[0], workdir)
  shutil.rmtree(os.path.join(workdir, "checkpoints", "12"))
  assert_same_run(workdir, run(tiny.get_config(), workdir), finished)
