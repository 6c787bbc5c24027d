"""Runs on several devices, and in processes of their own."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.train import tiny
from train import checkpoint
from train.loop import run
from train.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[3]


def start(*words, **environment):
  return subprocess.Popen(
    [sys.executable, "-m", *words],
    cwd=ROOT,
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_pmap_on_8_devices_gives_the_numbers_of_jit(tmp_path):
  assert jax.device_count() == 8
  for name in ("jit", "pmap"):
    config = dataclasses.replace(
      tiny.get_config(), strategy=name, steps=5, batch_size=16, accumulation=2
    )
    run(config, str(tmp_path / name))
  one, many = (read_metrics(tmp_path / name) for name in ("jit", "pmap"))
  # The model, five of training, and validation at 0, 4 and 5.
  assert len(one) == len(many) == 9
  for a, b in zip(one, many, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"split"}:
      if "seconds" not in name and "second" not in name:
        np.testing.assert_allclose(b[name], a[name], rtol=2e-5, err_msg=name)
  states = [
    checkpoint.load(str(tmp_path / name), "latest", print).state["params"]
    for name in ("jit", "pmap")
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5), *states
  )


@pytest.mark.slow
def test_every_mesh_gives_a_hybrid_the_same_training():
  flags = os.environ["XLA_FLAGS"]
  assert "device_count=8" in flags
  process = start("tests.train.programs.compare_meshes")
  output, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors
  results = json.loads(output.splitlines()[-1])
  plain = results.pop("jit")
  assert plain["loss"][-1] < plain["loss"][0] - 0.03
  assert set(results) == {"pmap", "data", "fsdp", "sequence", "mixed"}
  for name, result in results.items():
    for key in ("loss", "validation"):
      np.testing.assert_allclose(
        result[key], plain[key], rtol=1e-5, err_msg=f"{name} {key}"
      )
    norms, expected = result["grad_norm"], plain["grad_norm"]
    np.testing.assert_allclose(norms, expected, 1e-5, err_msg=name)


@pytest.mark.slow
def test_sigterm_in_the_middle_loses_nothing(tmp_path, finished):
  workdir = str(tmp_path / "run")
  words = ("tests/train/tiny.py", f"--workdir={workdir}")
  # A slow validation split holds the run until the signal is there.
  process = start("tests.train.programs.slow_train", *words)
  metrics = os.path.join(workdir, "metrics.jsonl")
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if os.path.exists(metrics) and len(read_metrics(workdir)) >= 5:
      break
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGTERM, errors
  assert "SIGTERM: saved step" in output
  stopped = checkpoint.steps(workdir)[-1]
  assert 3 <= stopped < 12
  result = run(tiny.get_config(), workdir)
  jax.tree.map(np.testing.assert_array_equal, result.params, finished[1].params)
  ours, theirs = (
    [_numbers(x) for x in read_metrics(w)] for w in (workdir, finished[0])
  )
  assert ours == theirs


def _numbers(line):
  return {k: v for k, v in line.items() if "second" not in k}
