"""Compiles programs that take longer to compile than to run."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax


@contextlib.contextmanager
def quick_to_compile() -> Iterator[None]:
  """Compiles without most optimizations, which cost small programs most."""
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, True)
  try:
    yield
  finally:
    jax.config.update(name, before)


@functools.cache
def _options() -> dict[str, Any] | None:
  """Options that halve the compile time for a CPU, if XLA knows them."""
  options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
  try:
    jax.jit(lambda: 0, compiler_options=options)()
  except jax.errors.JaxRuntimeError:
    return None
  return options


def jit(function: Callable) -> Callable:
  """`jax.jit` for small programs that run a few times."""
  return jax.jit(function, compiler_options=_options())
