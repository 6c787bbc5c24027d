import os

# Read by this process and by those it starts: the same tiny programs are
# compiled once for all tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import pytest

from tests.train import tiny
from train.loop import run


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("compiled"))
  settings = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
    del os.environ[name.upper()]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """Trains the tiny config without interruption.

  Returns the directory and the result.
  """
  workdir = str(tmp_path_factory.mktemp("run"))
  return workdir, run(tiny.get_config(), workdir)
