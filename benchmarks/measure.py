"""Timing side by side, round by round, so that noise hits all alike."""

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs import Program, build, lower

Call = Callable[[], Any]


def seconds(call: Call) -> float:
  """The wall time of one call, until its arrays are there."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def interleave(
  calls: Mapping[str, Call],
  repeats: int,
  budget: float,
  limit: float = math.inf,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """Times calls in rounds, each in an order of its own.

  What ran just before leaves its traces, in caches and in the memory that it
  gave back: in a fixed order one would always bear another's.

  Args:
    calls: what to time, by name.
    repeats: rounds, after one that warms up.
    budget: seconds after which no further round starts; three are made
      whatever they take, or all where fewer are asked for.
    limit: seconds of a call; what takes longer the first time is left out.

  Returns:
    seconds [rounds] of each, and those of the first call of what was left
    out.
  """
  first = {name: seconds(call) for name, call in calls.items()}
  slow = {name: taken for name, taken in first.items() if taken > limit}
  calls = {name: call for name, call in calls.items() if name not in slow}
  start, rounds = time.perf_counter(), []
  draw = random.Random(0)
  while len(rounds) < repeats and (
    len(rounds) < 3 or time.perf_counter() - start < budget
  ):
    order = draw.sample(list(calls), len(calls))
    rounds.append({name: seconds(calls[name]) for name in order})
  return {n: np.array([one[n] for one in rounds]) for n in calls}, slow


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
