"""Nothing is written outside the run directory."""

import os

import pytest

from train import __main__ as command
from train import files
from train.command import main_with_errors
from train.errors import UserError
from train.report import write_report


def train(workdir, *words):
  words = ("tests/train/tiny.py", f"--workdir={workdir}", *words)
  return main_with_errors(command._run, words)


def test_files_are_replaced_and_links_are_not_followed(tmp_path):
  outside, path = tmp_path / "outside", tmp_path / "file"
  outside.write_bytes(b"mine")
  path.symlink_to(outside)
  files.replace(str(path), b"new")
  assert not path.is_symlink() and path.read_bytes() == b"new"
  files.replace(str(path), b"newer")
  assert path.read_bytes() == b"newer" and outside.read_bytes() == b"mine"
  assert sorted(os.listdir(tmp_path)) == ["file", "outside"]
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
  found = os.umask(0)
  os.umask(found)
  return found


def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch):
  path = tmp_path / "file"
  files.replace(str(path), b"old")

  def fail(descriptor):
    raise OSError("no")

  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
      files.replace(str(path), b"new")
  assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind):
  outside, path = tmp_path / "outside", tmp_path / "file"
  if kind in ("link", "dangling"):
    path.symlink_to(outside)
    if kind == "link":
      outside.write_bytes(b"mine")
  elif kind == "pipe":
    os.mkfifo(path)
  else:
    path.mkdir()
  with pytest.raises((UserError, OSError)):
    files.open_append(str(path))
  with pytest.raises((UserError, OSError)):
    files.read(str(path))
  assert outside.exists() == (kind == "link")


def test_appending_adds_to_the_end(tmp_path):
  path = str(tmp_path / "file")
  for piece in (b"a", b"b"):
    with files.open_append(path) as file:
      file.write(piece)
  assert files.read(path) == b"ab" == files.read(path, 2)
  with pytest.raises(UserError, match="more than 1 bytes"):
    files.read(path, 1)


def test_a_run_replaces_links_with_the_names_of_its_files(tmp_path):
  outside, workdir = tmp_path / "outside", tmp_path / "run"
  workdir.mkdir()
  names = ("config.json", "report.png", "metrics.partial", ".writable")
  for name in (*names, "failed-step-5.npz"):
    outside.with_name(name).write_text("mine")
    (workdir / name).symlink_to(outside.with_name(name))
  # A half line makes the metrics be rewritten.
  (workdir / "metrics.jsonl").write_text('{"step": 1, "spl')
  assert train(workdir, "--steps=2") == 0
  for name in (*names, "failed-step-5.npz"):
    assert outside.with_name(name).read_text() == "mine", name
  for name in names[:2]:
    assert not (workdir / name).is_symlink()


def test_a_batch_that_failed_is_not_written_through_a_link(tmp_path, capsys):
  outside, workdir = tmp_path / "outside", tmp_path / "run"
  workdir.mkdir()
  outside.write_text("mine")
  for step in range(1, 8):
    (workdir / f"failed-step-{step}.npz").symlink_to(outside)
  assert train(workdir, "--data.infinite=7") == 1
  assert "is not finite" in capsys.readouterr().err
  assert outside.read_text() == "mine"


@pytest.mark.parametrize(
  "name", ["checkpoints", "corrupt", "profile", "profile/plugins", "metrics"]
)
def test_links_that_lead_out_are_refused(tmp_path, capsys, name):
  outside, workdir = tmp_path / "outside", tmp_path / "run"
  path = workdir / name
  if name == "metrics":
    path = workdir / "metrics.jsonl"
    outside.write_text("mine")
  else:
    outside.mkdir()
  path.parent.mkdir(parents=True)
  path.symlink_to(outside)
  assert train(workdir) == 2
  error = capsys.readouterr().err
  assert f"{path} is a link" in error and error.count("\n") == 1
  assert outside.is_file() or os.listdir(outside) == []
  if outside.is_file():
    assert outside.read_text() == "mine"


def test_a_picture_is_not_drawn_over_a_link(finished, tmp_path):
  outside, path = tmp_path / "outside", tmp_path / "report.svg"
  outside.write_text("mine")
  path.symlink_to(outside)
  write_report([finished[0]], path)
  assert outside.read_text() == "mine"
  assert b"<svg" in path.read_bytes()
