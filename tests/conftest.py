"""Settings of every test, made before JAX starts."""

import gc
import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# No test writes to the cache of the user who runs it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
# Or only one process at a time compiles for chips that are not there.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
# Eight devices for meshes. The programs here are many and tiny: compiling
# them costs more than running them, and what they compute is the same.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_force_host_platform_device_count=8"
  " --xla_backend_optimization_level=0"
  " --xla_llvm_disable_expensive_passes=true",
)

import logging
import pathlib

import chex
import jax
import pytest

_MAPS = "/proc/self/maps"


def quick_flags():
  """Returns two flags that make XLA compile much faster for a CPU.

  One chooses XLA's older code for loops. The other gives LLVM each program as
  a whole: the usual 32 parts are 32 compilations. An XLA that does not know a
  flag aborts, and later versions do not know the first.
  """
  if not importlib.metadata.version("jaxlib").startswith("0.10."):
    return ""
  return (
    " --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
  )


def _start_quickly():
  """Starts JAX with `quick_flags`.

  libtpu does not know them, and reads the variable when it is loaded: they are
  there only while the CPU's XLA reads them.
  """
  flags = os.environ["XLA_FLAGS"]
  os.environ["XLA_FLAGS"] = flags + quick_flags()
  jax.devices()
  os.environ["XLA_FLAGS"] = flags


_start_quickly()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# JAX makes many objects and few cycles of them. Python's usual thresholds make
# its collector look at all of them so often that it takes a sixth of the time.
gc.set_threshold(100_000, 20, 20)


SLOWER = pathlib.Path(__file__).with_name("slower.txt")


def slower():
  """The ids of cases that are marked slow by their time alone."""
  lines = SLOWER.read_text().splitlines()
  return {line for line in lines if not line.startswith("#")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks these cases before pytest selects by marks."""
  marked = slower()
  for item in items:
    if item.nodeid in marked:
      item.add_marker(pytest.mark.slow)


class _Inspected(logging.Filter):
  """Drops chex's reminder at exit to inspect checks: the tests did."""

  def filter(self, record: logging.LogRecord) -> bool:
    return "chexify assertion statuses" not in record.getMessage()


def _drop_programs():
  """Drops compiled programs before a process has too many memory mappings.

  Linux allows 65,530. One test of all forms and lengths makes 8,000, and
  without room for one more XLA crashes while it compiles.
  """
  if not os.path.exists(_MAPS):
    return
  with open(_MAPS) as maps:
    count = sum(1 for _ in maps)
  if count > 20_000:
    jax.clear_caches()


def pytest_collection_finish():
  """What is imported stays: the collector need not look at it again."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def few_programs_after_a_slow_test(request):
  yield
  if request.node.get_closest_marker("slow"):
    _drop_programs()


@pytest.fixture(scope="module", autouse=True)
def few_programs_after_a_module():
  yield
  _drop_programs()


@pytest.fixture(scope="session", autouse=True)
def no_check_is_left():
  """Waits for all compiled checks; chex reminds also where none is left."""
  yield
  chex.block_until_chexify_assertions_complete()
  logging.getLogger("absl").addFilter(_Inspected())
