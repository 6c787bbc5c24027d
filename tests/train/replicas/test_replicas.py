"""Replicas in one process against separate runs, interrupted in every way."""

import collections
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.train import launch, tiny
from tests.train.test_loop import at_line, lines
from train import __main__ as command
from train import checkpoint, loop, replicas
from train.command import main_with_errors
from train.config import Mesh
from train.errors import UserError
from train.losses import Distillation
from train.metrics import read_metrics
from train.replicas import choice
from train.replicas.members import refuse
from train.report import main as report

# Seeds and rates by mode. XLA rounds several rates, which are arguments of the
# program, differently from a constant rate.
GIVEN = {"turn": (3, ()), "vmap": (2, (0.01, 0.03))}


def config_of(**changes):
  return dataclasses.replace(tiny.get_config(), **changes)


def trained(workdir, mode, given=None, **changes):
  members = replicas.replicas_of(config_of(**changes), *(given or GIVEN[mode]))
  return replicas.run(members, str(workdir), mode)


def state_of(folder):
  return checkpoint.load(str(folder), "latest", print).state


def assert_same(folder, other):
  """Requires the lines and the last state of another run, bit for bit."""
  assert lines(folder) == lines(other)
  jax.tree.map(np.testing.assert_array_equal, *map(state_of, (folder, other)))


def assert_close(folder, other):
  """Requires them up to the rounding of a dozen steps."""
  both = lines(folder), lines(other)
  for values, expected in zip(*both, strict=True):
    assert values.pop("split") == expected.pop("split")
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-7)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6),
    *(state_of(x)["params"] for x in (folder, other)),
  )


@pytest.fixture(scope="module", params=["turn", "vmap"])
def uninterrupted(request, tmp_path_factory):
  """Trains replicas without implicit transfers.

  Returns the mode, the directory, the replicas and the compiled programs.
  """
  compiled = collections.Counter()

  def listen(event, seconds, **about):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled[about["fun_name"]] += 1

  def guarded(*given):
    with jax.transfer_guard("disallow"):
      return unguarded(*given)

  workdir = str(tmp_path_factory.mktemp(request.param))
  module = sys.modules["train.replicas.run"]
  unguarded = module._train
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(module, "_train", guarded)
      results = trained(workdir, request.param)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert set(results.steps.values()) == {12}
  assert not results.failures
  return request.param, workdir, list(results.steps), compiled


def test_replicas_are_the_separate_runs(uninterrupted, finished, tmp_path):
  mode, workdir, names, compiled = uninterrupted
  step = {"turn": "jit(step)", "vmap": "jit(_stacked_step)"}[mode]
  assert compiled[step] == compiled["jit(evaluate)"] == 1
  assert compiled["jit(build)"] == 1
  (last,) = replicas.replicas_of(tiny.get_config(), *GIVEN[mode])[-1:]
  assert names[-1] == last.name
  loop.run(last.config, str(tmp_path))
  same = {"turn": assert_same, "vmap": assert_close}[mode]
  same(os.path.join(workdir, names[0]), finished[0])
  same(os.path.join(workdir, names[-1]), tmp_path)


def test_a_signal_and_a_kill_lose_nothing(uninterrupted, tmp_path, monkeypatch):
  mode, workdir, names, _ = uninterrupted
  # The line of one replica alone sends the signal: a second one would end the
  # process.
  signals = iter([signal.SIGTERM])

  def stop():
    for number in signals:
      os.kill(os.getpid(), number)

  def crash():
    raise RuntimeError("power cut")

  with monkeypatch.context() as patch:
    at_line(patch, 5, stop)
    results = trained(tmp_path, mode)
  assert results.signal == signal.SIGTERM
  for name, step in results.steps.items():
    assert checkpoint.steps(tmp_path / name)[-1] == step
  with monkeypatch.context() as patch:
    at_line(patch, 11, crash)
    with pytest.raises(RuntimeError, match="power cut"):
      trained(tmp_path, mode)
  # The kill came before the last checkpoint of one replica and the first of
  # another.
  shutil.rmtree(tmp_path / names[1] / "checkpoints" / "9")
  shutil.rmtree(tmp_path / names[2])
  assert trained(tmp_path, mode).signal is None
  for name in names:
    assert_same(tmp_path / name, os.path.join(workdir, name))


def train(*words):
  return main_with_errors(command._run, ("tests/train/tiny.py", *words))


@pytest.mark.slow
@pytest.mark.parametrize(
  "mode", ["vmap", pytest.param("turn", marks=pytest.mark.slow)]
)
def test_a_replica_that_is_not_finite_stops_alone(
  mode, finished, tmp_path, capsys
):
  words = (f"--workdir={tmp_path}", "--replica-rates", "1e16", "0.01")
  bad, good = (
    tmp_path / f"learning_rate={r},seed=0" for r in ("1e+16", "0.01")
  )
  for _ in range(2):  # The same command repeats the failing step.
    assert train(*words, f"--replica-mode={mode}") == 1
    error = capsys.readouterr().err
    assert f"1 of 2 replicas failed; {bad.name}: step 2 is not finite" in error
    assert (bad / "failed-step-2.npz").exists()
    assert checkpoint.steps(bad) == [1]
    assert checkpoint.steps(good)[-1] == 12
  assert_close(good, finished[0])


def test_a_replica_is_an_ordinary_run_and_the_report_groups_them(
  tmp_path, capsys
):
  words = ("--steps=4", "--sample.length=0")
  assert train(*words, "--replicas=2", f"--workdir={tmp_path}") == 0
  assert "| 2 | 4 |" in capsys.readouterr().out
  assert sorted(os.listdir(tmp_path)) == [
    ".lock",
    "replicas.json",
    "report.png",
    "seed=0",
    "seed=1",
  ]
  alone = ("--seed=1", f"--workdir={tmp_path / 'seed=1'}")
  assert train(*words, *alone) == 0
  assert "is complete, at step 4" in capsys.readouterr().out
  assert report([str(tmp_path), "--json=-"]) == 0
  (row,) = json.loads(capsys.readouterr().out.partition("\n")[2])
  assert row["name"] == tmp_path.name
  losses = [
    read_metrics(tmp_path / f"seed={seed}")[-1]["loss"] for seed in (0, 1)
  ]
  found = row["metrics"]["validation"]["loss"]
  assert found["mean"] == pytest.approx(np.mean(losses))
  assert (found["min"], found["max"]) == (min(losses), max(losses))
  assert train(*words, f"--workdir={tmp_path}") == 2
  assert "holds replicas: add --replicas N" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("words", "line"),
  [
    (["--replicas=0"], "must make 1 to 256 runs"),
    (["--replica-rates", "0.1", "0.1"], "has the same rate twice"),
    (["--replicas=2", "--replica-mode=both"], "one of auto, turn, vmap"),
    (
      ["--replicas=2", "--replica-mode=vmap", "--mesh.data=2"],
      "--replica-mode=vmap needs one device",
    ),
    (
      ["--replica-rates", "0.1", "0.2", "--strategy=pmap"],
      "--replica-rates needs one device",
    ),
    (["--replicas=2", "--trackers=wandb"], "follows one run per process"),
    (["--replica-rates", "-1"], "learning_rate is -1"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(words, line, tmp_path, capsys):
  assert train(*words, f"--workdir={tmp_path / 'run'}") == 2
  error = capsys.readouterr().err
  assert line in error
  assert error.count("\n") == 1
  assert not (tmp_path / "run").exists()


def test_a_teacher_is_no_constant_of_a_program_of_replicas():
  loss = Distillation(teacher="runs/teacher")
  config = dataclasses.replace(tiny.get_config(), loss=loss)
  found = replicas.replicas_of(config, 2, [0.1, 0.2])
  with pytest.raises(UserError, match="a loss without a teacher"):
    refuse(found, "auto", Mesh(), 1)
  with pytest.raises(UserError, match="--replica-mode=vmap needs"):
    refuse(replicas.replicas_of(config, 2), "vmap", Mesh(), 1)
  refuse(replicas.replicas_of(config, 2), "auto", Mesh(), 1)


def test_replicas_refuse_other_processes_and_the_directory_of_one_run(finished):
  with pytest.raises(UserError, match="needs one process, but there are 2"):
    refuse(replicas.replicas_of(tiny.get_config(), 2), "auto", Mesh(), 2)
  with pytest.raises(UserError, match="holds a run without --replicas"):
    trained(finished[0], "turn")


def test_auto_measures_once_and_takes_the_quicker_mode(tmp_path, monkeypatch):
  found = []
  measure = choice.measure

  def spy(*given):
    found.append(measure(*given))
    return found[-1]

  monkeypatch.setattr(choice, "_SHORT", 0)
  monkeypatch.setattr(choice, "_LONG", 1e9)
  monkeypatch.setattr(choice, "measure", spy)
  results = trained(tmp_path, "auto", (2,), steps=2)
  (one,) = found
  assert one.vmap is not None, one.why
  assert one.mode == results.mode == ("vmap" if one.vmap < one.turn else "turn")
  assert trained(tmp_path, "auto", (2,), steps=2).mode == one.mode
  assert len(found) == 1
  for name in ("seed=0", "seed=1"):
    lines = read_metrics(tmp_path / name)
    seconds = [x["compile_seconds"] for x in lines if "compile_seconds" in x]
    assert seconds == [one.compile_seconds]
  # The states that were timed are not those that train.
  trained(tmp_path / "again", one.mode, (2,), steps=2)
  for name in ("seed=0", "seed=1"):
    assert_same(tmp_path / name, tmp_path / "again" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes", [{"strategy": "pmap"}, {"mesh": Mesh(data=2, fsdp=2)}]
)
def test_replicas_take_turns_on_many_devices(changes, finished, tmp_path):
  results = trained(tmp_path, "auto", (2,), **changes)
  assert results.mode == "turn"
  loop.run(config_of(seed=1, **changes), str(tmp_path / "alone"))
  assert_same(tmp_path / "seed=1", tmp_path / "alone")
  found, wanted = lines(tmp_path / "seed=0"), lines(finished[0])
  for values, expected in zip(found, wanted, strict=True):
    assert ("loss" in values) == ("loss" in expected)
    if "loss" in values:  # The line of the model has none.
      assert values["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["turn", "vmap"])
def test_a_process_killed_at_any_moment_resumes(mode, tmp_path):
  words = ("--replicas=3", f"--replica-mode={mode}", "--steps=60")

  def start(name):
    config, workdir = "tests/train/tiny.py", f"--workdir={tmp_path / name}"
    return launch.start("train", config, workdir, *words)

  launch.finish([start("b")])
  rng, kills, code = np.random.default_rng(0), 0, None
  while code != 0:
    process = start("a")
    try:
      # Each kill comes later, so that the run ends at last.
      code = process.wait(rng.uniform(2, 8) + kills)
      assert code == 0, process.communicate()
    except subprocess.TimeoutExpired:
      process.kill()
      kills += 1
    finally:
      process.communicate()
  assert kills
  for name in ("seed=0", "seed=1", "seed=2"):
    assert_same(tmp_path / "a" / name, tmp_path / "b" / name)
