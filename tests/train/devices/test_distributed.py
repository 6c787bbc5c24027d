"""Runs of several processes on this machine, and how they end."""

import dataclasses
import os
import signal
import time

import jax
import numpy as np
import pytest

from tests.train import hybrid, launch, tiny
from train import checkpoint
from train.command import main_with_errors
from train.config import Mesh, layout
from train.data import Batches
from train.devices import distributed
from train.errors import UserError
from train.loop import run
from train.metrics import read_metrics

DATA = "--mesh.data=-1"
HEARTBEAT = 5


def curve(workdir):
  """Returns the training and validation losses of a run, by step."""
  lines = (m for m in read_metrics(workdir) if "loss" in m)
  return {(m["split"], m["step"]): m["loss"] for m in lines}


def assert_same_losses(workdir, expected):
  ours, theirs = curve(workdir), curve(expected)
  assert ours.keys() == theirs.keys()
  for key, loss in ours.items():
    np.testing.assert_allclose(loss, theirs[key], rtol=1e-5, err_msg=str(key))


@pytest.mark.slow
def test_two_processes_one_is_killed_and_one_process_resumes(
  tmp_path, finished
):
  workdir = str(tmp_path / "run")
  options = {"module": "tests.train.programs.slow_train"}
  with launch.started(workdir, DATA, **options) as processes:
    launch.wait_for(lambda: 6 in checkpoint.steps(workdir), processes)
    processes[0].kill()
    killed = time.monotonic()
    (_, first, _), (code, second, errors) = launch.ended(processes)
  # Process 0 holds the coordination service: its loss is known at once.
  assert time.monotonic() - killed < 30
  assert "step 3/12" in first and "step" not in second
  assert code != 0
  (line,) = launch.errors_of(errors)
  assert "process 1 of 2: another process was lost" in line
  assert "the same command resumes" in line
  result = run(tiny.get_config(), workdir)
  assert result.step == 12
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  "number",
  ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize(
  "lost", [0, pytest.param(1, marks=pytest.mark.exhaustive)]
)
def test_a_lost_process_ends_the_others_and_two_resume(
  tmp_path, finished, lost, number
):
  workdir = str(tmp_path / "run")
  words = (DATA, f"--heartbeat_timeout_seconds={HEARTBEAT}")
  options = {"module": "tests.train.programs.slow_train"}
  with launch.started(workdir, *words, **options) as processes:
    launch.wait_for(lambda: 3 in checkpoint.steps(workdir), processes)
    processes[lost].send_signal(getattr(signal, number))
    begun = time.monotonic()
    ((code, _, errors),) = launch.ended([processes[1 - lost]])
  assert time.monotonic() - begun < 4 * HEARTBEAT
  assert code != 0
  (line,) = launch.errors_of(errors)
  assert f"process {1 - lost} of 2: another process was lost" in line
  launch.train(workdir, DATA)
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
def test_a_run_moves_between_processes_and_meshes(tmp_path):
  moved, stayed = str(tmp_path / "moved"), str(tmp_path / "stayed")
  whole = hybrid.get_config()
  run(whole, stayed)
  run(dataclasses.replace(whole, steps=2), moved)
  for steps, *mesh in ((4, "data", "fsdp"), (6, "sequence")):
    size = 4 // len(mesh)
    words = [f"--mesh.{axis}={size}" for axis in mesh]
    words.append(f"--steps={steps}")
    launch.train(moved, *words, config="hybrid")
    assert checkpoint.load(moved, "latest", pytest.fail).step == steps
  result = run(whole, moved)
  assert result.step == 8
  ours, theirs = curve(moved), curve(stayed)
  train = [key for key in theirs if key[0] == "train"]
  assert len(train) == 8
  for key in (*train, ("validation", 8)):
    np.testing.assert_allclose(ours[key], theirs[key], 1e-5, err_msg=str(key))


@pytest.mark.slow
@pytest.mark.parametrize(
  "target", [pytest.param(0, marks=pytest.mark.exhaustive), 1]
)
def test_a_signal_to_one_process_stops_all_at_one_step(
  tmp_path, finished, target
):
  workdir = str(tmp_path / "run")
  options = {"module": "tests.train.programs.slow_train"}
  with launch.started(workdir, DATA, **options) as processes:
    launch.wait_for(lambda: 3 in checkpoint.steps(workdir), processes)
    processes[target].send_signal(signal.SIGTERM)
    results = launch.ended(processes)
  for code, _, errors in results:
    assert code == 128 + signal.SIGTERM, errors
  assert "SIGTERM: saved step" in results[0][1]
  assert 3 < checkpoint.steps(workdir)[-1] < 12
  launch.train(workdir, DATA)
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_while_a_checkpoint_is_written(
  tmp_path, finished, capsys, count
):
  workdir = str(tmp_path / "run")
  options = {"module": "tests.train.programs.held_train", "count": count}

  def half_written():
    folder = os.path.join(workdir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    return [n for n in names if n.startswith("9.")]

  with launch.started(workdir, DATA, **options) as processes:
    launch.wait_for(half_written, processes)
    # Training goes on while it is written.
    launch.wait_for(lambda: ("train", 11) in curve(workdir), processes)
    for process in processes:
      process.kill()
  (half,) = half_written()
  assert checkpoint.steps(workdir)[-1] == 6
  result = run(tiny.get_config(), workdir)
  printed = capsys.readouterr().out
  assert f"{half}, which is half-written" in printed
  assert "resuming at step 6 of 12" in printed
  assert not half_written() and result.step == 12
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  "mesh",
  [
    ("data", "sequence"),
    *(
      pytest.param((axis,), marks=pytest.mark.exhaustive)
      for axis in ("data", "fsdp", "sequence")
    ),
  ],
)
def test_each_process_reads_the_rows_of_its_devices(tmp_path, mesh):
  size = 4 // len(mesh)
  words = [f"--mesh.{axis}={size}" for axis in mesh]
  logs = [str(tmp_path / f"reads-{i}") for i in range(2)]
  port = launch.free_port()
  processes = [
    launch.start(
      "tests.train.programs.counted_train",
      "tests/train/hybrid.py",
      f"--workdir={tmp_path / 'run'}",
      "--distributed",
      "--steps=4",
      *launch.flags(index, 2, port),
      *words,
      env={"READS": log},
    )
    for index, log in enumerate(logs)
  ]
  launch.finish(processes)
  reads = []
  for log in logs:
    with open(log) as file:
      reads.append([list(map(int, line.split())) for line in file])
  config = hybrid.get_config()
  stream = Batches(_Numbers(config.data.size), 8, seed=config.seed)
  for step in range(4):
    expected = next(stream)["inputs"][:, 0].tolist()
    first, second = reads[0][step], reads[1][step]
    if mesh == ("sequence",):
      assert first == second == expected
    else:
      assert first == expected[:4] and second == expected[4:]


class _Numbers:
  """A data set whose example i consists of the number i."""

  def __init__(self, size):
    self._size = size

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    return {"inputs": np.array([index])}


SLURM = {
  "SLURM_JOB_ID": "{job}",
  "SLURM_STEP_NODELIST": "127.0.0.1",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "{index}",
  "SLURM_LOCALID": "{index}",
}
OPEN_MPI = {
  "OMPI_MCA_orte_hnp_uri": "{uri}.0;tcp://127.0.0.1:1",
  "OMPI_COMM_WORLD_SIZE": "2",
  "OMPI_COMM_WORLD_RANK": "{index}",
  "OMPI_COMM_WORLD_LOCAL_RANK": "{index}",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [SLURM, OPEN_MPI])
def test_a_launcher_says_which_process_this_is(tmp_path, finished, launcher):
  workdir = str(tmp_path / "run")
  # JAX makes a port of the number of the job.
  job = launch.free_port() % 4096
  processes = [
    launch.start(
      "train",
      "tests/train/tiny.py",
      f"--workdir={workdir}",
      "--distributed",
      DATA,
      env={
        name: value.format(index=index, job=job, uri=job * 4096)
        for name, value in launcher.items()
      },
    )
    for index in range(2)
  ]
  launch.finish(processes)
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
def test_a_non_finite_loss_stops_all_processes(tmp_path):
  workdir = str(tmp_path / "run")
  words = (DATA, "--data.infinite=7")
  with launch.started(workdir, *words) as processes:
    results = launch.ended(processes)
  steps = set()
  for index, (code, _, errors) in enumerate(results):
    assert code == 1
    (line,) = launch.errors_of(errors)
    assert line.startswith(f"error: process {index} of 2: step ")
    assert "is not finite" in line
    steps.add(int(line.split(": step ")[1].split()[0]))
  (step,) = steps
  assert checkpoint.load(workdir, "latest", pytest.fail).step == step - 1
  for index in range(2):
    path = tmp_path / "run" / f"failed-step-{step}-process-{index}.npz"
    with np.load(path) as saved:
      assert saved["inputs"].shape == (4, 12)


@pytest.mark.slow
def test_processes_with_other_commands_are_refused(tmp_path):
  own = ((), ("--optimizer.b2=0.9",))
  with launch.started(str(tmp_path / "run"), DATA, own=own) as processes:
    results = launch.ended(processes)
  for code, _, errors in results:
    assert code == 2
    (line,) = launch.errors_of(errors)
    assert "the config differs between process 0 and process 1" in line


@pytest.mark.parametrize(
  ("drift", "named", "debug"),
  [
    ("step", "the code of the training step", False),
    pytest.param(
      "step",
      "the code of the training step",
      True,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "evaluation", "the code of the validation", False, marks=pytest.mark.slow
    ),
    pytest.param(
      "init",
      "the code of the initial parameters",
      False,
      marks=pytest.mark.slow,
    ),
  ],
)
def test_processes_with_other_code_are_refused(tmp_path, drift, named, debug):
  port = launch.free_port()
  processes = [
    launch.start(
      "tests.train.programs.drifting_train",
      "tests/train/tiny.py",
      f"--workdir={tmp_path / 'run'}",
      "--distributed",
      DATA,
      f"--debug={debug}",
      *launch.flags(index, 2, port),
      env={"DRIFT": drift if index else ""},
    )
    for index in range(2)
  ]
  for code, _, errors in launch.ended(processes):
    assert code == 2, errors
    (line,) = launch.errors_of(errors)
    assert f"{named} differs between process 0 and process 1" in line
  assert not checkpoint.steps(str(tmp_path / "run"))


@pytest.mark.slow
def test_a_second_run_of_several_processes_is_refused(
  tmp_path, finished, monkeypatch
):
  workdir, hold = str(tmp_path / "run"), tmp_path / "hold"
  monkeypatch.setenv("HOLD", str(hold))
  options = {"module": "tests.train.programs.slow_train"}
  with launch.started(workdir, DATA, **options) as processes:
    launch.wait_for(lambda: 3 in checkpoint.steps(workdir), processes)
    hold.touch()
    with launch.started(workdir, DATA) as others:
      for code, _, errors in launch.ended(others):
        assert code == 2, errors
        (line,) = launch.errors_of(errors)
        assert f"process {processes[0].pid} on host" in line
    hold.unlink()
    launch.finish(processes)
  assert_same_losses(workdir, finished[0])


@pytest.mark.slow
def test_a_failed_debug_check_stops_all_processes(tmp_path):
  words = (DATA, "--debug=True", "--model.bad_token=200")
  with launch.started(str(tmp_path / "run"), *words) as processes:
    results = launch.ended(processes)
  for code, _, errors in results:
    assert code == 1, errors
    (line,) = launch.errors_of(errors)
    assert "a check failed: tiny: x must be finite" in line


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--num_processes=2",), "--num-processes needs --distributed"),
    (
      ("--distributed", "--num_processes=2"),
      "--coordinator-address and --process-id must be given too",
    ),
    (
      ("--distributed", "--num_processes=two"),
      "--num-processes=two is wrong: the value must be int",
    ),
    (
      ("--distributed", *launch.flags(2, 2, 1)),
      "--process-id is 2, but must be 0 to 1",
    ),
    (
      ("--distributed", *launch.flags(0, 2, "")),
      "must be HOST:PORT",
    ),
    (
      ("--distributed", "--heartbeat_timeout_seconds=0"),
      "--heartbeat-timeout-seconds is 0, but must be 1 to",
    ),
  ],
)
def test_wrong_flags_end_in_one_line(words, message):
  with pytest.raises(UserError, match=message) as error:
    distributed.parse(words)
  assert "\n" not in str(error.value)


def test_other_flags_are_left_to_the_caller():
  words = ["a.py", "--steps=3"]
  assert distributed.parse(words) == (None, words)
  options, rest = distributed.parse([*words, "--distributed"])
  assert options is not None and rest == words


def test_an_unknown_launcher_is_one_line(monkeypatch, capsys):
  def initialize(*args, **kwargs):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)

  def command(argv):
    with distributed.process_group(distributed.parse(["--distributed"])[0]):
      raise AssertionError("not reached")

  assert main_with_errors(command, ()) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "--coordinator-address HOST:PORT" in error


def test_several_processes_need_a_mesh_of_all_devices():
  config = dataclasses.replace(tiny.get_config(), mesh=Mesh(data=2))
  with pytest.raises(UserError, match=r"2 of the 4 devices of 2 .*data=-1"):
    layout(config, 4, 2)
  config = dataclasses.replace(config, mesh=Mesh(), strategy="pmap")
  with pytest.raises(UserError, match='must be "jit" with a mesh'):
    layout(config, 4, 2)
