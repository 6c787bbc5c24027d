"""Runs from a notebook or a script."""

import json
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import train
from tests.train import tiny
from train.errors import UserError


def test_train_is_imported_without_jax():
  code = (
    "import sys, train; print('jax' in sys.modules, train.load.__name__,"
    " 'jax' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == ["False", "load", "True"]


def test_a_name_that_train_lacks_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'lode'"):
    _ = train.lode


def test_load_gives_what_run_gave(finished):
  workdir, result = finished
  run = train.run(tiny.get_config(), workdir)
  found = train.load(workdir)
  assert run.step == found.step == result.step == 12
  assert run.config == found.config == tiny.get_config()
  assert run.metrics == found.metrics == result.metrics
  jax.tree.map(np.testing.assert_array_equal, run.state, found.state)
  for variables in (run.variables, found.variables):
    jax.tree.map(
      np.testing.assert_array_equal, variables, {"params": result.params}
    )
  logits, _ = found.model.apply(found.variables, np.zeros((1, 3), np.int32))
  assert logits.shape == (1, 3, tiny.VOCAB)


def test_load_takes_an_earlier_step(finished):
  assert train.load(finished[0], step=9).step == 9
  with pytest.raises(UserError, match="no checkpoint '5'"):
    train.load(finished[0], step=5)


def test_load_runs_no_code_that_a_run_names(finished):
  # `tests.train.tiny` is imported here, so the attack names another module.
  done = subprocess.run(
    [sys.executable, "-c", f"import train; train.load({finished[0]!r})"],
    capture_output=True,
    text=True,
  )
  assert done.returncode != 0
  assert "if you trust the code of the module tests.train.tiny" in done.stderr


def test_a_run_outside_the_main_thread_handles_no_signal(tmp_path, finished):
  found = []
  thread = threading.Thread(
    target=lambda: found.append(train.run(tiny.get_config(), tmp_path))
  )
  thread.start()
  thread.join()
  assert found[0].metrics == finished[1].metrics
  assert json.loads((tmp_path / "config.json").read_text())["steps"] == 12
