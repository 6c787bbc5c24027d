"""Settings of every test, made before JAX starts."""

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

import chex
import jax
import pytest

_MAPS = "/proc/self/maps"


def _start_quickly():
  """Starts JAX with XLA's older code for loops, which compiles much faster.

  An XLA that does not know a flag aborts. Later versions do not know this one,
  and neither does libtpu, which reads the variable when it is loaded: it is
  there only while the CPU's XLA reads it.
  """
  flags = os.environ["XLA_FLAGS"]
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"
  jax.devices()
  os.environ["XLA_FLAGS"] = flags


_start_quickly()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


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
