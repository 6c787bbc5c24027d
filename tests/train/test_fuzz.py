"""Random configs, random damage to a run directory, random kills.

The invariant of each case: the command gives exactly what an undisturbed run
gives, or ends in one line that begins with "error: " and an exit code; and
nothing that was complete is lost.

Each test draws cases for `FUZZ_SECONDS` (60 by default) and reports how many
it ran. `FUZZ_SEED` gives other cases.
"""

import collections
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests.train import fuzz
from train import __main__ as command
from train import checkpoint, evaluate, generate, report
from train.command import main_with_errors
from train.metrics import read_metrics

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
TIMING = ("step_seconds", "compile_seconds")


def cases(record_property):
  """Yields numbered random generators until the time is up."""
  until = time.monotonic() + SECONDS
  number = 0
  while time.monotonic() < until:
    yield number, random.Random(f"{SEED}-{number}")
    number += 1
  record_property("cases", number)
  print(f"\n{number} cases in {SECONDS:.0f} s")


def run(capfd, function, *words):
  """Runs a command in this process; returns exit code, output and errors."""
  capfd.readouterr()
  try:
    code = main_with_errors(function, words)
  except SystemExit as error:  # What argparse raises for --help.
    code = error.code
  return code, *capfd.readouterr()


def assert_one_line(code, errors, what):
  assert code in (1, 2), (what, code, errors)
  assert errors.startswith("error: "), (what, errors)
  assert errors.count("\n") == 1, (what, errors)


def lines(workdir):
  return [
    {k: v for k, v in x.items() if k not in TIMING and "per_second" not in k}
    for x in read_metrics(workdir)
  ]


def assert_same_state(workdir, finished, what):
  found, expected = (
    checkpoint.load(w, "12", pytest.fail).state for w in (workdir, finished)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b, str(what)),
    found,
    expected,
  )


def contents(folder):
  """Returns the digest of each file and the target of each link in a folder."""
  found = {}
  for parent, folders, names in os.walk(folder):
    for name in [*folders, *names]:
      path = os.path.join(parent, name)
      key = os.path.relpath(path, folder)
      if os.path.islink(path):
        found[key] = os.readlink(path)
      elif os.path.isfile(path) and name != ".lock":
        with open(path, "rb") as file:
          found[key] = hashlib.sha256(file.read()).hexdigest()
  return found


def test_random_configs(tmp_path, capfd, record_property):
  ends = collections.Counter()
  for number, draw in cases(record_property):
    workdir = tmp_path / str(number)
    words = fuzz.config_words(draw)
    code, _, errors = run(
      capfd,
      command._run,
      "tests/train/tiny.py",
      f"--workdir={workdir}",
      "--steps=2",
      *words,
    )
    ends[code] += 1
    if code == 0:
      found = lines(workdir)
      assert found[-1]["split"] == "validation", words
      for line in found:
        numbers = [v for v in line.values() if isinstance(v, float)]
        assert np.isfinite(numbers).all(), (words, line)
    else:
      assert_one_line(code, errors, words)
    if code == 2:
      assert not contents(workdir), (words, "a refused command left files")
    shutil.rmtree(workdir, ignore_errors=True)
  print(f"exit codes: {dict(ends)}")
  assert ends[0] and ends[2], "no case of one kind: the draws are poor"


def _read_commands(workdir, draw):
  """A command that only reads a run."""
  return draw.choice(
    [
      (generate._run, f"--workdir={workdir}", "--prompt=a", "--length=2"),
      (evaluate._run, f"--workdir={workdir}", "--batches=1"),
      (report._run, workdir),
    ]
  )


def test_random_damage(finished, tmp_path, capfd, record_property):
  ends = collections.Counter()
  expected = lines(finished[0])
  outside = tmp_path / "outside"
  outside.mkdir()
  (outside / "file").write_text("not ours")
  before_outside = contents(outside)
  for number, draw in cases(record_property):
    workdir = str(shutil.copytree(finished[0], tmp_path / str(number)))
    # Of another test; the command would replace it.
    (tmp_path / str(number) / evaluate.FILE_NAME).unlink(missing_ok=True)
    damaged = [
      fuzz.damage(workdir, str(outside), draw)
      for _ in range(draw.choice((1, 1, 2)))
    ]
    what = (number, damaged)
    reader, *words = _read_commands(workdir, draw)
    before = contents(workdir)
    code, _, errors = run(capfd, reader, *words)
    if code != 0:
      assert_one_line(code, errors.splitlines(keepends=True)[-1], what)
    if reader is evaluate._run and code == 0:
      os.unlink(os.path.join(workdir, evaluate.FILE_NAME))
    if reader is not report._run:
      assert contents(workdir) == before, (what, "a reader wrote")
    before = contents(workdir)
    code, _, errors = run(
      capfd,
      command._run,
      "tests/train/tiny.py",
      f"--workdir={workdir}",
    )
    ends[code] += 1
    if code == 0:
      assert_same_state(workdir, finished[0], what)
      if not any("metrics.jsonl" in name for name, _ in damaged):
        assert lines(workdir) == expected, what
    else:
      assert_one_line(code, errors, what)
      after = contents(workdir)
      lost = {k for k in before if k.startswith("checkpoints")} - set(after)
      assert not lost, (what, lost)
    assert contents(outside) == before_outside, what
    shutil.rmtree(workdir)
  print(f"exit codes: {dict(ends)}")
  assert ends[0], "no damaged run was mended: the draws are poor"


def test_random_kills(tmp_path, record_property):
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["tests.train.fuzz"])
  # By a process of the same kind: XLA rounds as the flags of a process say.
  undisturbed = str(tmp_path / "undisturbed")
  log = str(tmp_path / "undisturbed.log")
  process = context.Process(target=fuzz.train, args=(undisturbed, log))
  process.start()
  process.join(120)
  assert process.exitcode == 0
  expected = lines(undisturbed)
  ends = collections.Counter()
  for number, draw in cases(record_property):
    workdir = str(tmp_path / str(number))
    log = tmp_path / f"{number}.log"
    numbers = []
    for _ in range(20):
      process = context.Process(target=fuzz.train, args=(workdir, str(log)))
      process.start()
      # The last tries are left alone, so that every run comes to its end.
      if len(numbers) < 6:
        process.join(draw.uniform(0, 6))
        numbers.append(draw.choice(fuzz.SIGNALS))
        for one in numbers[-1]:
          if process.is_alive():
            os.kill(process.pid, one)
            time.sleep(draw.choice((0, 0.05, 0.5)))
      process.join(120)
      assert process.exitcode is not None, (number, "it hangs", numbers)
      ends[process.exitcode] += 1
      wanted = (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
      if process.exitcode not in (*wanted, 128 + 15, 128 + 2):
        pytest.fail(
          f"{number} {numbers}: {process.exitcode}, {log.read_text()}"
        )
      assert "Traceback" not in log.read_text(), (number, log.read_text())
      if process.exitcode == 0:
        break
    assert process.exitcode == 0, (number, numbers)
    assert_same_state(workdir, undisturbed, (number, numbers))
    assert lines(workdir) == expected, (number, numbers)
    shutil.rmtree(workdir)
  print(f"exit codes: {dict(ends)}")
