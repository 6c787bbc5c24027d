"""Timing side by side: A B C A B C ..., so that noise hits all alike."""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs import Program, build, lower


def seconds(program: Program) -> float:
  """The wall time of one call."""
  start = time.perf_counter()
  jax.block_until_ready(program.call(*program.arguments))
  return time.perf_counter() - start


def interleave(
  programs: Mapping[str, Program],
  repeats: int,
  budget: float,
  limit: float = math.inf,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """Times programs in turn.

  Args:
    programs: what to time, by name.
    repeats: rounds, after one that warms up.
    budget: seconds after which no further round starts; three are made
      whatever they take, or all where fewer are asked for.
    limit: seconds of a call; what takes longer the first time is left out.

  Returns:
    seconds [rounds] of each, and those of the first call of what was left
    out.
  """
  first = {name: seconds(program) for name, program in programs.items()}
  slow = {name: taken for name, taken in first.items() if taken > limit}
  programs = {n: p for n, p in programs.items() if n not in slow}
  start, rounds = time.perf_counter(), []
  while len(rounds) < repeats and (
    len(rounds) < 3 or time.perf_counter() - start < budget
  ):
    rounds.append([seconds(program) for program in programs.values()])
  times = np.array(rounds).reshape(len(rounds), len(programs))
  return dict(zip(programs, times.T, strict=True)), slow


def ratio(a: np.ndarray, b: np.ndarray) -> float:
  """How much longer a takes than b: the median over rounds."""
  return float(np.median(a / b))


# Matrix products whose rate is the limit that ops are compared with: one of
# 1024^3, and many of the size of a head's chunk.
_LARGE, _SMALL, _MANY = 1024, 64, 512


def matmuls(dtype: Any = jnp.float32) -> dict[str, Program]:
  """Two matrix products, with their flops."""
  large = jnp.ones((_LARGE, _LARGE), dtype)
  small = jnp.ones((_MANY, _SMALL, _SMALL), dtype)
  return {
    f"matmul {_LARGE}": build(lower(jnp.matmul, large, large), 2 * _LARGE**3),
    f"{_MANY} matmuls {_SMALL}": build(
      lower(jnp.matmul, small, small), 2 * _MANY * _SMALL**3
    ),
  }
