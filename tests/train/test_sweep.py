import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.train import launch, tiny
from train.command import main_with_errors
from train.config import command_line
from train.errors import UserError
from train.metrics import read_metrics
from train.sweep import __main__ as sweep
from train.sweep import cells, plot, pool, results

CONFIG = "tests/train/tiny.py"


def swept(workdir, *words):
  return main_with_errors(
    sweep.run, [CONFIG, f"--workdir={workdir}", *words], needs_output=False
  )


def table(workdir):
  return json.loads((workdir / "sweep.json").read_text())


@pytest.fixture
def quick(monkeypatch):
  """Runs write their loss, width + seed, without training."""
  monkeypatch.setattr(pool, "MODULE", "tests.train.programs.quick_cell")


def made(*words, listed=(), replicas=1):
  axes, rest = cells.split(words)
  assert not rest
  grid = cells.grid(axes, listed)
  return cells.runs(tiny.get_config(), grid, replicas)


def test_a_grid_has_all_combinations_and_readable_folders():
  found = made(
    *("--over.model.width", "4", "8"),
    *("--over.optimizer.learning-rate=1e-3", "3e-2"),
    replicas=2,
  )
  assert [run.name for run in found][:4] == [
    "width=4,learning_rate=0.001,seed=0",
    "width=4,learning_rate=0.03,seed=0",
    "width=8,learning_rate=0.001,seed=0",
    "width=8,learning_rate=0.03,seed=0",
  ]
  values = [
    (r.config.model.width, r.config.optimizer.learning_rate, r.config.seed)
    for r in found
  ]
  assert values == [
    (w, rate, s) for s in (0, 1) for w in (4, 8) for rate in (1e-3, 3e-2)
  ]
  for run in found:
    # The flags of the child make the same config.
    again = command_line.override(tiny.get_config(), run.words)
    assert again == run.config


def test_names_are_safe_and_differ():
  found = made("--over.sample.prompt", "a*[b]?/..", "a*(b)?/..", "x" * 300, "é")
  names = [run.name for run in found]
  assert len(set(names)) == 4
  for name in names:
    assert len(name) < 150
    assert not set(name) & set("[]*?/ ")
    assert name.isascii()
  # The same values have the same names among others.
  assert made("--over.sample.prompt", "é")[0].name == names[3]
  # Two spellings of one number are two prompts.
  one, two = made("--over.sample.prompt", "1e3", "1000.0")
  assert one.name != two.name


def test_fields_with_the_same_last_name_keep_more_of_their_keys():
  found = made("--over.data.length", "8", "--over.sample.length", "3", "4")
  assert found[0].name == "data.length=8,sample.length=3,seed=0"


def test_a_file_lists_cells(tmp_path):
  path = tmp_path / "cells.txt"
  path.write_text(
    "# widths\n--model.width 4 --optimizer.learning-rate=1e-3\n\n"
    "--model.width=8 --debug  # checked\n"
  )
  found = made("--over.steps", "5", "6", listed=cells.read_file(str(path)))
  assert [run.name for run in found] == [
    "width=4,learning_rate=0.001,steps=5,seed=0",
    "width=4,learning_rate=0.001,steps=6,seed=0",
    "width=8,debug=True,steps=5,seed=0",
    "width=8,debug=True,steps=6,seed=0",
  ]
  assert found[3].config.debug
  assert found[3].config.steps == 6


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--over.model.widht", "4"), "widht; did you mean --model.width"),
    (("--over.model.width", "4", "x"), "width=x is wrong"),
    (("--over.model.width",), "--over.model.width needs one value"),
    (("--over.steps", "4", "--over.steps", "5"), "is given twice"),
    (("--over.steps", "4", "4"), "two cells are the same run"),
    (("--over.seed", "4", "5", "--replicas=2"), "do not sweep over seed"),
    (("--stepss=3", "--over.steps", "4"), "did you mean --steps"),
    (("--replicas=0", "--over.steps", "4"), "--replicas is 0"),
    ((), "nothing to sweep over"),
    (("--cells=missing.txt",), "cannot read --cells=missing.txt"),
  ],
)
def test_a_wrong_command_is_one_line_and_starts_nothing(
  words, message, tmp_path, capfd, monkeypatch
):
  monkeypatch.setattr(pool, "_Child", None)
  assert swept(tmp_path / "sweep", *words) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith("error: ")
  assert message in line
  assert not (tmp_path / "sweep").exists()


def test_a_line_that_is_no_flag_is_named(tmp_path):
  path = tmp_path / "cells.txt"
  path.write_text("--steps 3\nmodel.width 4\n")
  with pytest.raises(UserError, match=r"cells.txt, line 2: 'model.width' must"):
    cells.read_file(str(path))


@pytest.mark.slow
def test_runs_are_those_of_the_trainer_and_a_failed_cell_says_why(
  finished, tmp_path, capfd
):
  words = ("--over.model.width", "8", "0", "--processes=2")
  assert swept(tmp_path, *words) == 1
  good, bad = table(tmp_path)["rows"]
  # The fixture trains the same config in this process.
  expected = read_metrics(finished[0])[-1]
  assert expected["split"] == "validation"
  for name in ("loss", "bits_per_token", "accuracy"):
    assert good["metrics"][name]["mean"] == expected[name]
  assert bad["metrics"] == {}
  (run,) = bad["runs"]
  assert run["state"] == "failed"
  assert run["reason"] == "config.model: width must be positive, got 0"
  page = (tmp_path / "sweep.md").read_text().splitlines()
  assert page[0].startswith("| width | seeds | loss | bits_per_token |")
  assert page[2].startswith("| **8** | **1** | **5.8")
  assert page[3].endswith(
    "| failed: config.model: width must be positive, got 0 |"
  )
  assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
  captured = capfd.readouterr()
  assert "error: 1 of 2 runs failed" in captured.err
  assert "2/2  " in captured.out


def test_the_same_command_skips_what_is_done(
  quick, tmp_path, capfd, monkeypatch
):
  at_once = []
  end = pool.Pool._end

  def counted(self, run, child):
    at_once.append(len(self._children))
    end(self, run, child)

  monkeypatch.setattr(pool.Pool, "_end", counted)
  words = ("--over.model.width", "5", "2", "3", "6", "--replicas=3")
  assert swept(tmp_path, *words, "--processes=2") == 1
  found = {row["values"]["model.width"]: row for row in table(tmp_path)["rows"]}
  assert found["5"]["metrics"]["loss"] == {"mean": 6, "low": 5, "high": 7}
  assert table(tmp_path)["best"] == {"model.width": "5"}
  assert "SIGKILL ended its process" in found["2"]["runs"][0]["reason"]
  assert "without a validation" in found["3"]["runs"][0]["reason"]
  page = (tmp_path / "sweep.md").read_text()
  assert "| **5** | **3** | **6 (5 to 7)** |" in page
  assert "| seed 0, 1, 2 failed: SIGKILL ended its process" in page
  assert max(at_once) == 2
  capfd.readouterr()
  # The failed ones are tried again, and no others, also in another order.
  words = ("--over.model.width", "6", "5", "3", "--replicas=3")
  assert swept(tmp_path, *words, "--processes=3") == 1
  assert "9 runs, 6 of them done before" in capfd.readouterr().out
  counts = [
    (tmp_path / f"width={w},seed=0/starts").stat().st_size for w in (6, 5, 3)
  ]
  assert counts == [1, 1, 2]
  # A run with another config is not done.
  words = ("--over.model.width", "5", "--optimizer.learning-rate=0.5")
  assert swept(tmp_path, *words) == 0
  assert (tmp_path / "width=5,seed=0/starts").stat().st_size == 2


def test_a_signal_ends_the_runs_and_the_same_command_continues(
  quick, tmp_path, capfd
):
  def stop():
    until = time.monotonic() + 60
    while not (tmp_path / "width=1,seed=0/ready").exists():
      assert time.monotonic() < until
      time.sleep(0.02)
    # The child sets its handler before it makes the file.
    os.kill(os.getpid(), signal.SIGTERM)

  handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  words = ("--over.model.width", "5", "1", "6")
  thread = threading.Thread(target=stop)
  thread.start()
  assert swept(tmp_path, *words) == 143
  thread.join()
  after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  assert after == handlers
  captured = capfd.readouterr()
  last = captured.out.splitlines()[-1]
  assert last == "SIGTERM: 1 of 3 runs are done; the same command continues"
  assert captured.err == ""
  states = [row["runs"][0]["state"] for row in table(tmp_path)["rows"]]
  assert states == ["done", "not run", "not run"]
  assert swept(tmp_path, *words) == 0
  losses = [r["metrics"]["loss"]["mean"] for r in table(tmp_path)["rows"]]
  assert losses == [5, 1, 6]


def test_the_plot_has_means_and_ranges(quick, tmp_path, monkeypatch):
  figures = []
  save = plot.Figure.savefig

  def keep(figure, *args, **kwargs):
    figures.append(figure)
    return save(figure, *args, **kwargs)

  monkeypatch.setattr(plot.Figure, "savefig", keep)
  words = ("--over.model.width", "5", "40", "2", "--replicas=3")
  assert swept(tmp_path, *words, "--processes=9") == 1
  (axes,) = figures[0].axes
  assert axes.get_xscale() == "log"
  assert [t.get_text() for t in axes.get_xticklabels()] == ["5", "40"]
  (bars,) = axes.containers
  np.testing.assert_array_equal(bars.lines[0].get_xydata(), [[5, 6], [40, 41]])
  (segments,) = (lines.get_segments() for lines in bars.lines[2])
  ends = [[list(point) for point in segment] for segment in segments]
  assert ends == [[[5, 5], [5, 7]], [[40, 40], [40, 42]]]


def test_a_record_of_somebody_else_is_not_trusted(tmp_path):
  (run,) = made("--over.steps", "5")
  for content in ("[", "[1]", '{"config": 1}', "[" * 10_000):
    (tmp_path / results.RECORD).write_text(content)
    assert results.read(run, str(tmp_path)).state == "not run"


def run_sweep(folder, *words):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "train.sweep", CONFIG, f"--workdir={folder}"),
      *("--over.model.width", "4", "8", "--processes=2", *words),
    ],
    cwd=launch.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_a_killed_sweep_ends_its_runs_and_continues_bit_for_bit(tmp_path):
  words = ("--steps=4000", "--log-every=10", "--eval-every=4000")
  words = (*words, "--checkpoint-every=1000")
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  first = run_sweep(whole, *words)
  assert first.communicate(timeout=200)[1] == ""
  assert first.returncode == 0
  killed = run_sweep(cut, *words)
  names = ("width=4,seed=0", "width=8,seed=0")
  paths = [cut / name / "metrics.jsonl" for name in names]

  def is_training():
    return all(path.exists() and path.stat().st_size > 2000 for path in paths)

  try:
    launch.wait_for(is_training, [killed])
  finally:
    killed.kill()
    killed.communicate()
  # At once: the children are still saving.
  second = run_sweep(cut, *words)
  out, errors = second.communicate(timeout=200)
  assert second.returncode == 0, (out, errors)
  for name in names:
    output = pathlib.Path(cut, name, results.OUTPUT).read_text()
    assert "SIGTERM: saved step" in output
    assert "resuming at step" in output
    losses = [
      [line["loss"] for line in read_metrics(folder / name) if "loss" in line]
      for folder in (whole, cut)
    ]
    assert len(losses[0]) > 400
    assert losses[0] == losses[1]
