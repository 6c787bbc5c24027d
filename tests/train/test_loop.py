"""The whole training loop, interrupted in every possible way."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from tests.train import tiny
from train import __main__ as command
from train import checkpoint, loop
from train import step as pure_step
from train.command import main_with_errors
from train.config import AdamW, Cosine
from train.data import Batches
from train.errors import NonFiniteError, UserError
from train.loop import run
from train.metrics import MetricsWriter, read_metrics

TIMING = ("step_seconds", "tokens_per_second", "compile_seconds")


def lines(workdir):
  return [
    {k: v for k, v in line.items() if k not in TIMING}
    for line in read_metrics(workdir)
  ]


def assert_same_run(workdir, result, finished):
  assert result.step == finished[1].step
  jax.tree.map(np.testing.assert_array_equal, result.params, finished[1].params)
  assert lines(workdir) == lines(finished[0])


def at_line(monkeypatch, step, action):
  """Does something when the training line of a step is written."""
  write = MetricsWriter.write

  def spy(self, number, split, values):
    write(self, number, split, values)
    if (number, split) == (step, "train"):
      action()

  monkeypatch.setattr(MetricsWriter, "write", spy)


def train(*words):
  words = ("tests/train/tiny.py", *words)
  return main_with_errors(command._run, words)


def test_every_line_is_written_once_and_in_order(finished):
  found = [(line["step"], line["split"]) for line in lines(finished[0])]
  expected = [(0, "validation")]
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


def damage(workdir, step, how):
  folder = os.path.join(workdir, "checkpoints", str(step))
  paths = [
    os.path.join(parent, name)
    for parent, _, names in os.walk(os.path.join(folder, "state"))
    for name in names
  ]
  path = max(paths, key=os.path.getsize)
  if how == "truncated":
    os.truncate(path, os.path.getsize(path) // 2)
  elif how == "changed":
    with open(path, "r+b") as file:
      file.seek(os.path.getsize(path) // 2)
      byte = file.read(1)[0]
      file.seek(-1, os.SEEK_CUR)
      file.write(bytes([byte ^ 255]))
  elif how == "deleted":
    os.remove(path)
  elif how == "bad JSON":
    with open(os.path.join(folder, "meta", "metadata"), "w") as file:
      file.write("{")
  elif how == "incomplete":
    os.remove(os.path.join(folder, "checksums.json"))


@pytest.mark.parametrize(
  "how", ["truncated", "changed", "deleted", "bad JSON", "incomplete"]
)
def test_a_damaged_checkpoint_is_skipped_and_named(finished, tmp_path, how):
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  damage(workdir, 12, how)
  said = []
  assert checkpoint.load(workdir, "latest", said.append).step == 9
  assert len(said) == 1 and "step 12" in said[0] and "damaged" in said[0]
  with pytest.raises(UserError, match="cannot be read"):
    checkpoint.load(workdir, "12", said.append)


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
  finished, tmp_path, capsys
):
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  damage(workdir, 12, "truncated")
  half = os.path.join(workdir, "checkpoints", "13.orbax-checkpoint-tmp")
  os.makedirs(os.path.join(half, "state"))
  result = run(tiny.get_config(), workdir)
  printed = capsys.readouterr().out
  assert f"skipping {half}, which is half-written" in printed
  assert "skipping the checkpoint of step 12, it is damaged" in printed
  assert "resuming at step 9 of 12" in printed
  assert not os.path.exists(half)
  assert_same_run(workdir, result, finished)
  assert checkpoint.load(workdir, "12", pytest.fail).step == 12


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(
  finished, tmp_path, capsys
):
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  for step in checkpoint.steps(workdir):
    damage(workdir, step, "deleted")
  assert train(f"--workdir={workdir}") == 2
  error = capsys.readouterr().err
  assert "none of the checkpoints" in error and error.count("\n") == 1
  assert lines(workdir) == lines(finished[0])


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
    assert [x["step"] for x in lines(tmp_path)] == [0, 1, 2, 3, 4]


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


def test_a_complete_checkpoint_that_cannot_be_restored_is_skipped(
  finished, tmp_path, capsys
):
  workdir = str(shutil.copytree(finished[0], tmp_path / "run"))
  saved = checkpoint.load(workdir, "12", pytest.fail)
  shutil.rmtree(os.path.join(workdir, "checkpoints", "12"))
  writer = checkpoint.Checkpoints(workdir, keep=2, best_metric="loss")
  other = {**saved.state, "params": {"Other_0": np.ones(3, np.float32)}}
  writer.save(dataclasses.replace(saved, state=other))
  writer.close()
  result = run(tiny.get_config(), workdir)
  printed = capsys.readouterr().out.splitlines()
  (line,) = [x for x in printed if "skipping" in x]
  assert "checkpoint of step 12, it is complete but cannot be restored" in line
  assert any("resuming at step 9 of 12" in x for x in printed)
  assert_same_run(workdir, result, finished)
  assert os.listdir(os.path.join(workdir, "corrupt")) == ["0-step-12"]


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
