"""Processes whose streams are closed, full or limited end in one line."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.train import launch

TINY = "tests/train/tiny.py"


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished[0], tmp_path / "run")


def shell(script, **env):
  """Runs a /bin/sh script, in which `$py` is Python."""
  return subprocess.run(
    ["/bin/sh", "-c", script],
    cwd=launch.ROOT,
    env={**os.environ, "py": sys.executable, **env},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_a_variable_that_jax_refuses_is_one_line():
  done = shell("$py -m train.evaluate --workdir=x", JAX_NUM_CPU_DEVICES="abc")
  assert done.returncode == 1
  assert done.stderr.startswith("error: Invalid value")
  assert done.stderr.count("\n") == 1


def test_a_file_does_not_get_the_descriptor_of_closed_output(workdir):
  # The report must not get the file descriptor of standard output.
  script = f"$py -m train.report {workdir} >&- 2>&-"
  (workdir / "report.png").unlink(missing_ok=True)
  done = shell(script)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
  assert (workdir / "report.png").read_bytes()[:4] == b"\x89PNG"


TRUST = "--trust=tests.train.tiny"

SCRIPTS = {
  "$py -m train.generate --workdir={} --length=4 <&-": 2,
  "$py -m train.generate --workdir={} --prompt=a >&-": 2,
  f"$py -m train.generate --workdir={{}} {TRUST} --prompt=a >/dev/full": 1,
  f"$py -m train.evaluate --workdir={{}} {TRUST} >/dev/full": 1,
  "JAX_PLATFORMS=nosuch $py -m train tests/train/tiny.py --workdir={}": 2,
  "JAX_PLATFORMS=nosuch $py -m train.generate --workdir={} --prompt=a": 2,
  "JAX_PLATFORMS=cuda $py -m train.evaluate --workdir={}": 2,
  "JAX_NUM_CPU_DEVICES=0 $py -m train.evaluate --workdir={}": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_ends_in_one_line(workdir, script):
  done = shell(script.format(workdir))
  assert done.returncode == SCRIPTS[script]
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ("before", "after"),
  [
    ("PYTHONIOENCODING=ascii", ""),
    ("PYTHONIOENCODING=latin-1", ""),
    ("", "| head -n 1"),
    ("", ">/dev/full"),
    ("", ">&-"),
    ("", "2>&-"),
    ("", ">&- 2>&- <&-"),
  ],
)
def test_a_run_finishes_with_any_streams(tmp_path, before, after):
  run = f"$py -m train {TINY} --workdir={tmp_path}/run"
  code = tmp_path / "code"
  # The exit code of the run, not of the program that reads its output.
  done = shell(f"{{ {before} {run}; echo $? >{code}; }} {after}")
  assert code.read_text() == "0\n"
  assert (tmp_path / "run" / "report.png").exists()
  lines = done.stderr.splitlines()
  assert len(lines) <= 1 and all(x.startswith("warning: ") for x in lines)


@pytest.mark.slow
def test_ctrl_c_is_one_line(workdir):
  words = [f"--workdir={workdir}", "--prompt=a", "--length=100000000"]
  words.append("--trust=tests.train.tiny")
  process = subprocess.Popen(
    [sys.executable, "-m", "train.generate", *words],
    cwd=launch.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.read(1)
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (130, b"error: interrupted\n")


@pytest.mark.slow
def test_a_limit_of_file_sizes_is_one_line(tmp_path):
  # Blocks of 512 bytes: too few for the third checkpoint.
  run = f"$py -m train {TINY} --workdir={tmp_path}/run --model.width=512"
  # JAX warns of each program that its cache has no room for.
  done = shell(f"ulimit -f 64; {run}", JAX_COMPILATION_CACHE_DIR="")
  assert done.returncode == 1, done.stderr
  assert "ulimit -f" in done.stderr and done.stderr.count("\n") == 1
