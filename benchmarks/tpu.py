"""Programs for TPUs and GPUs, compiled on a machine without one."""

import contextlib
import functools
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.pool import Pool
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from benchmarks import programs
from jaxmodels.analysis import bundles
from jaxmodels.analysis.chips import SLICES, slice_devices
from jaxmodels.analysis.cycles import expected_cycles
from jaxmodels.analysis.hlo import instructions
from jaxmodels.ops.engine.platform import trace_for

Make = Callable[..., tuple[programs.Function, tuple[Any, ...]]]
_KERNEL = 'custom_call_target="tpu_custom_call"'


@functools.cache
def chip(name: str = "v5e:2x2") -> SingleDeviceSharding:
  """The sharding that puts all arrays on the first chip of a slice."""
  return SingleDeviceSharding(slice_devices(name)[0])


def traced_for(
  name: str | None, kernels: bool = True
) -> contextlib.AbstractContextManager[None]:
  """Traces for the chips of a slice, or None for a CPU; see `trace_for`."""
  if name is None:
    return trace_for("cpu")
  kind = SLICES[name.partition(":")[0]]
  return trace_for(kind.platform, capability=kind.capability, kernels=kernels)


def place(shapes: Any, where: SingleDeviceSharding) -> Any:
  """Shapes of the arrays, with this sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
  )


def build(
  name: str | None, function: programs.Function, arguments: Any
) -> programs.Program:
  """Compiles for one chip of a slice, or None for this machine.

  Args:
    name: of the slice; inside of `traced_for` the same.
    function: is traced here.
    arguments: their shapes.
  """
  if name is not None:
    arguments = place(arguments, chip(name))
  return programs.build(programs.lower(function, *arguments))


def put(page: str, path: str | None) -> None:
  """Writes a page to a file, or prints it if there is no path."""
  if not path:
    print(page)
    return
  with open(path, "w") as file:
    file.write(page)


# What a program costs, kernels included.


class Cost(NamedTuple):
  """What a program costs on one chip of a TPU.

  Attributes:
    temp_bytes: temporary memory.
    cycles: the compiler's estimate, without kernels.
    kernels: how many kernels the program runs.
    kernel_cycles: their bundles, see `jaxmodels.analysis.bundles`.
    failed: the reason, if the program has no cost.
  """

  temp_bytes: int = 0
  cycles: int = 0
  kernels: int = 0
  kernel_cycles: int = 0
  failed: str | None = None


class Compiler:
  """Counts costs of programs, in processes of its own; a context manager.

  libtpu reads its flags once per process. So one process compiles whole
  programs, and another one compiles kernels alone and writes their bundles:
  writing those of a whole program takes minutes.
  """

  def __init__(self, limit: float = 600):
    """Makes the processes when they are needed.

    Args:
      limit: the wall time of each compilation, in seconds.
    """
    self._limit = limit
    self._folder = tempfile.mkdtemp()
    self._pools: dict[Any, Pool] = {}

  def __enter__(self) -> "Compiler":
    return self

  def __exit__(self, *_: Any) -> None:
    for pool in self._pools.values():
      pool.close()
      pool.join()
    shutil.rmtree(self._folder, ignore_errors=True)

  def cost(
    self, name: str, make: Make, *what: Any, kernels: bool = True
  ) -> Cost:
    """Compiles a program and its kernels for one chip of a slice.

    Args:
      name: of the slice.
      make: a function of a module: makes a function and its arguments' shapes.
      *what: its arguments.
      kernels: whether "auto" may take kernels.
    """
    found = self._call(_of_program, name, kernels, make, what)
    if found.failed or not found.kernels:
      return found
    of_kernels = self._call(_of_kernels, name, self._folder, make, what)
    if of_kernels.kernels != found.kernels and not of_kernels.failed:
      reason = f"{of_kernels.kernels} kernels traced, {found.kernels} compiled"
      return Cost(failed=reason)
    return found._replace(
      kernel_cycles=of_kernels.kernel_cycles, failed=of_kernels.failed
    )

  def _call(self, function: Callable[..., Cost], *arguments: Any) -> Cost:
    """Runs a function in its process, which is ended if it takes too long."""
    if function not in self._pools:
      context = multiprocessing.get_context("spawn")
      written = self._folder if function is _of_kernels else None
      self._pools[function] = context.Pool(1, _start, (written,))
    try:
      return (
        self._pools[function].apply_async(function, arguments).get(self._limit)
      )
    except multiprocessing.TimeoutError:
      self._pools.pop(function).terminate()
      return Cost(failed=f"compiles for more than {self._limit:.0f} s")


def _start(folder: str | None) -> None:
  """Sets up a process before libtpu is loaded."""
  jax.config.update("jax_platforms", "cpu")
  if folder is not None:
    os.environ["LIBTPU_INIT_ARGS"] = bundles.flags(folder)


def _reasoned(function: Callable[..., Cost]) -> Callable[..., Cost]:
  """Turns errors of the compiler into reasons."""

  @functools.wraps(function)
  def run(*arguments: Any) -> Cost:
    jax.clear_caches()  # They do not distinguish what is traced for.
    try:
      return function(*arguments)
    except jax.errors.JaxRuntimeError as error:
      return Cost(failed=str(error).splitlines()[0])

  return run


@_reasoned
def _of_program(name: str, kernels: bool, make: Make, what: Any) -> Cost:
  with traced_for(name, kernels):
    built = build(name, *make(*what))
  found = (x.times for x in instructions(built.text) if _KERNEL in x.line)
  return Cost(built.temp_bytes, expected_cycles(built.text), sum(found))


@_reasoned
def _of_kernels(name: str, folder: str, make: Make, what: Any) -> Cost:
  with traced_for(name):
    function, arguments = make(*what)
    found = bundles.calls(function, *arguments)
    cycles = sum(_cycles(name, folder, call) * call.times for call in found)
  return Cost(kernels=sum(x.times for x in found), kernel_cycles=cycles)


def _cycles(name: str, folder: str, call: bundles.Call) -> int:
  def kernel(*given: Any) -> Any:  # The files have its name.
    return call.function(*given)

  shutil.rmtree(folder, ignore_errors=True)
  build(name, kernel, call.shapes)
  return bundles.kernel_cycles(folder, "kernel", call.loop)
