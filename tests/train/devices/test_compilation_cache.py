"""A second start compiles nothing, and no cache is no error."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from train.devices import compilation_cache
from train.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[3]


def trained(workdir, cache):
  """Trains the tiny config; returns what was asked of the cache, and errors."""
  kept = {k: v for k, v in os.environ.items() if "CACHE" not in k}
  done = subprocess.run(
    [sys.executable, "-m", "tests.train.programs.count_compilations", workdir],
    cwd=ROOT,
    env={**kept, "XDG_CACHE_HOME": str(cache)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  counts = json.loads(done.stdout.splitlines()[-1])
  return counts["compile_requests_use_cache"], counts["cache_hits"], done.stderr


def losses(workdir):
  return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
  runs = [tmp_path / "first", tmp_path / "second"]
  asked, hits, _ = trained(runs[0], tmp_path / "cache")
  assert asked > hits
  again, hits, errors = trained(runs[1], tmp_path / "cache")
  assert hits == again == asked
  assert not errors
  assert losses(runs[0]) == losses(runs[1])


@pytest.mark.slow
def test_a_run_trains_without_a_cache(tmp_path):
  cache = tmp_path / "file"
  cache.write_text("")
  _, hits, errors = trained(tmp_path / "run", cache)
  assert hits == 0
  assert not errors


def test_a_cache_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  before = jax.config.jax_compilation_cache_dir
  # As for a user who names no folder.
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    compilation_cache.use_cache()
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = compilation_cache._folder()
  assert folder.stat().st_mode & 0o077 == 0
  folder.chmod(0o770)
  with pytest.raises(PermissionError, match="others may write to"):
    compilation_cache._folder()


def test_the_oldest_programs_are_removed(tmp_path):
  for age in range(4):
    path = tmp_path / f"{age}-cache"
    path.write_bytes(bytes(10))
    os.utime(path, (1000 - age, 1000 - age))
  compilation_cache._remove_oldest(tmp_path, 40)
  assert len(list(tmp_path.iterdir())) == 4
  compilation_cache._remove_oldest(tmp_path, 39)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache"]
