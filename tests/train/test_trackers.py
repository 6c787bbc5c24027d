"""Trackers get each line once, also when a run resumes."""

import dataclasses
import sys
import types

import pytest

from tests.train import tiny
from tests.train.test_metrics import needs_tensorboard, read_events
from train import trackers
from train.config import validate
from train.errors import UserError
from train.loop import run
from train.metrics import MetricsWriter, read_metrics


class FakeRun:
  def __init__(self, settings):
    self.settings, self.lines, self.closed = settings, [], False

  def define_metric(self, name, step_metric):
    assert (name, step_metric) == ("*", "step")

  def log(self, values):
    assert not self.closed
    self.lines.append(values)

  def finish(self):
    self.closed = True


@pytest.fixture
def wandb(monkeypatch):
  """Puts a fake `wandb` in place, and returns its runs."""
  runs = []

  def init(**settings):
    runs.append(FakeRun(settings))
    return runs[-1]

  module = types.ModuleType("wandb")
  module.init = init
  module.__spec__ = types.SimpleNamespace(name="wandb")
  monkeypatch.setitem(sys.modules, "wandb", module)
  return runs


def writer(workdir, *names):
  opened = trackers.openers(names, str(workdir), {"steps": 9})
  return MetricsWriter(workdir, total_steps=9, trackers=opened)


def test_weights_and_biases_gets_the_lines_of_the_file(tmp_path, wandb):
  with writer(tmp_path, "wandb") as metrics:
    metrics.truncate(-1)
    metrics.write(1, "train", {"loss": 0.5, "grad_norm": float("inf")})
    metrics.write(1, "validation", {"loss": 0.25})
  (run,) = wandb
  assert run.lines == [
    {"step": 1, "train/loss": 0.5, "train/grad_norm": float("inf")},
    {"step": 1, "validation/loss": 0.25},
  ]
  assert run.closed
  assert run.settings["config"] == {"steps": 9}
  assert run.settings["name"] == tmp_path.name


def test_weights_and_biases_gets_no_line_twice(tmp_path, wandb):
  # Each part is killed after its last step; the last checkpoint is that of 2.
  for first, last in ((1, 5), (3, 4), (3, 7)):
    with writer(tmp_path, "wandb") as metrics:
      metrics.truncate(2 if wandb else -1)
      for step in range(first, last + 1):
        metrics.write(step, "train", {"loss": step})
  found = [line["step"] for run in wandb for line in run.lines]
  assert found == [1, 2, 3, 4, 5, 6, 7]
  assert len({run.settings["id"] for run in wandb}) == 1


def test_a_run_that_starts_again_is_another_run(tmp_path, wandb):
  for _ in range(2):
    with writer(tmp_path, "wandb") as metrics:
      metrics.truncate(-1)
      metrics.write(1, "train", {"loss": 1})
  assert [len(run.lines) for run in wandb] == [1, 1]
  assert len({run.settings["id"] for run in wandb}) == 2


def test_half_a_line_of_what_was_sent_is_dropped(tmp_path, wandb):
  sent = tmp_path / "wandb.txt"
  sent.write_text("run 0123456789abcdef\n3 train\n4 tr")
  with writer(tmp_path, "wandb") as metrics:
    metrics.truncate(2)
    for step in (3, 4):
      metrics.write(step, "train", {"loss": 1})
  assert wandb[0].lines == [{"step": 4, "train/loss": 1}]
  assert wandb[0].settings["id"] == "0123456789abcdef"
  assert sent.read_text() == "run 0123456789abcdef\n3 train\n4 train\n"


def test_what_was_sent_may_not_be_a_link(tmp_path, wandb):
  (tmp_path / "other").write_text("")
  (tmp_path / "wandb.txt").symlink_to(tmp_path / "other")
  with (
    writer(tmp_path, "wandb") as metrics,
    pytest.raises(UserError, match="is a link"),
  ):
    metrics.truncate(2)


def test_a_refusal_of_wandb_is_one_line(tmp_path, wandb, monkeypatch):
  def refuse(**settings):
    raise RuntimeError("no API key\nconfigured")

  monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
  with (
    writer(tmp_path, "wandb") as metrics,
    pytest.raises(UserError, match="no API key configured; log in by"),
  ):
    metrics.truncate(-1)


@needs_tensorboard
def test_a_repeated_validation_is_purged_from_tensorboard(tmp_path):
  with writer(tmp_path, "tensorboard") as metrics:
    metrics.truncate(-1)
    metrics.write(6, "train", {"loss": 0.5})
    metrics.write(6, "validation", {"loss": 0.25})
  for path in tmp_path.glob("events.*"):
    path.unlink()
  with writer(tmp_path, "tensorboard") as metrics:
    metrics.truncate(6, evaluated=False)
    metrics.write(6, "validation", {"loss": 0.25})
  # TensorBoard drops step 6 and all after it, so step 6 comes again.
  assert [event[:2] for event in read_events(tmp_path)] == [
    (6, "session"),
    (6, "train/loss"),
    (6, "validation/loss"),
  ]


def test_a_tracker_that_is_not_installed_names_the_command(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(trackers.MODULES, "wandb", "no_such_module")
  config = dataclasses.replace(tiny.get_config(), trackers=("wandb",))
  with pytest.raises(UserError, match=r"pip install no_such_module$"):
    run(config, str(tmp_path))
  assert not list(tmp_path.glob("*.json*"))


def test_an_unknown_tracker_names_those_there_are():
  config = dataclasses.replace(tiny.get_config(), trackers=("tb",))
  with pytest.raises(
    UserError, match="trackers is 'tb', but must be one of tensorboard, wandb"
  ):
    validate(config)


def test_trackers_change_no_number_and_may_change_on_resume(
  tmp_path, wandb, finished
):
  config = dataclasses.replace(tiny.get_config(), trackers=("wandb",))
  workdir = tmp_path / "run"
  first = run(config, str(workdir))
  losses = [
    [x["loss"] for x in read_metrics(folder) if x["split"] == "train"]
    for folder in (finished[0], workdir)
  ]
  assert losses[0] == losses[1]
  assert first.metrics == finished[1].metrics
  lines = wandb[0].lines
  assert [x["train/loss"] for x in lines if "train/loss" in x] == losses[1]
  assert wandb[0].settings["config"]["steps"] == 12
  # The complete run again, without trackers.
  run(dataclasses.replace(config, trackers=()), str(workdir))
  assert len(wandb) == 1
