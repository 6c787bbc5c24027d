"""One writer per run directory."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.train import tiny
from tests.train.files.test_untrusted import everything
from train import __main__ as command
from train import evaluate, report
from train.command import main_with_errors
from train.errors import UserError
from train.files import lock
from train.loop import run

# Holds a lock as `train.files.lock` does, without waiting for JAX's import.
HOLDER = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.pwrite(file, f"{os.getpid()} {os.uname().nodename}\\n".encode(), 0)
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds the lock of the directory."""
  path = str(tmp_path / lock.FILE_NAME)
  words = [sys.executable, "-c", HOLDER, path]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()


def test_a_second_run_is_refused_and_touches_nothing(holder, tmp_path, capsys):
  half = tmp_path / "checkpoints" / "13.orbax-checkpoint-tmp"
  half.mkdir(parents=True)
  (tmp_path / "metrics.jsonl").write_text('{"step": 12, "spl')
  before = everything(str(tmp_path))
  words = ("tests/train/tiny.py", f"--workdir={tmp_path}")
  assert main_with_errors(command._run, words) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert f"process {holder.pid} on host {socket.gethostname()}" in error
  assert everything(str(tmp_path)) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_holds_no_lock(holder, tmp_path, number):
  with pytest.raises(UserError), lock.held(str(tmp_path)):
    pytest.fail("two hold it")
  holder.send_signal(number)
  holder.wait()
  for _ in range(2):
    with lock.held(str(tmp_path)):
      text = (tmp_path / lock.FILE_NAME).read_text()
      assert text == f"{os.getpid()} {socket.gethostname()}\n"
    assert (tmp_path / lock.FILE_NAME).read_text() == ""


def test_a_failed_run_releases_the_lock(tmp_path):
  with pytest.raises(KeyError), lock.held(str(tmp_path)):
    raise KeyError
  with lock.held(str(tmp_path)), pytest.raises(UserError, match="is writing"):
    run(tiny.get_config(), str(tmp_path))


def test_reading_needs_no_lock(finished, capsys):
  with lock.held(finished[0]):
    words = (f"--workdir={finished[0]}", "--batches=1")
    assert main_with_errors(evaluate._run, words) == 0
    assert report.main([finished[0]]) == 0
  assert capsys.readouterr().err == ""


KINDS = ["link", "hard link", "dangling", "folder", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_is_a_file_of_the_directory(tmp_path, kind):
  outside, path = tmp_path / "outside", tmp_path / "run" / lock.FILE_NAME
  path.parent.mkdir()
  if kind in ("link", "hard link"):
    outside.write_text("mine")
  if kind in ("link", "dangling"):
    path.symlink_to(outside)
  elif kind == "hard link":
    path.hardlink_to(outside)
  elif kind == "folder":
    path.mkdir()
  else:
    os.mkfifo(path)
  with pytest.raises(UserError, match=re.escape(str(path.parent))) as error:
    run(tiny.get_config(), str(path.parent))
  assert "\n" not in str(error.value)
  assert outside.exists() == ("link" in kind)
  assert "link" not in kind or outside.read_text() == "mine"


@pytest.fixture
def without_flock(monkeypatch):
  def refuse(file, how):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("content", ["", "x", "999999999 {host}\n", "1 a b\n"])
def test_without_flock_a_dead_process_holds_no_lock(
  without_flock, tmp_path, content
):
  path = tmp_path / lock.FILE_NAME
  path.write_text(content.format(host=socket.gethostname()))
  with lock.held(str(tmp_path)):
    assert path.read_text().startswith(f"{os.getpid()} ")


def test_without_flock_a_living_owner_is_named(without_flock, tmp_path):
  path = tmp_path / lock.FILE_NAME
  for owner in (f"{os.getppid()} {socket.gethostname()}", "7 elsewhere"):
    path.write_text(owner + "\n")
    process, host = owner.split()
    wanted = f"process {process} on host {host} .*remove {path}"
    with pytest.raises(UserError, match=wanted), lock.held(str(tmp_path)):
      pytest.fail("two hold it")
    assert path.read_text() == owner + "\n"
