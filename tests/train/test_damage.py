"""Damaged checkpoints are skipped and named."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from tests.train import tiny
from tests.train.looping import assert_same_run, lines, train
from train import checkpoint
from train.errors import UserError
from train.loop import run


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
