"""Times programs in rounds, so that noise affects all of them alike."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs import Program, build, lower

Call = Callable[[], Any]


def seconds(call: Call) -> float:
  """The wall time of one call, until its arrays are ready."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def both_seconds(call: Call) -> np.ndarray:
  """The wall time of one call, and the processor time of all its threads."""
  start, processor = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  wall = time.perf_counter() - start
  return np.array([wall, time.process_time() - processor])


def interleave(
  calls: Mapping[str, Call],
  repeats: int,
  budget: float,
  limit: float = math.inf,
  timer: Callable[[Call], Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """Times calls in rounds, in a new random order per round.

  The preceding program affects the next through caches and freed memory. In a
  fixed order, it would always affect the same one.

  Args:
    calls: the functions to time, by name.
    repeats: rounds, after one to warm up.
    budget: seconds after which no further round starts. At least three
      rounds run, or all if `repeats` is smaller.
    limit: seconds per call; a call that takes longer at first is left out.
    timer: by default `seconds`; with `both_seconds` results are [rounds, 2].

  Returns:
    seconds [rounds] of each, and the seconds of the first call of those that
    were left out.
  """
  first = {name: seconds(call) for name, call in calls.items()}
  slow = {name: taken for name, taken in first.items() if taken > limit}
  calls = {name: call for name, call in calls.items() if name not in slow}
  start, rounds, timer = time.perf_counter(), [], timer or seconds
  draw = random.Random(0)
  while len(rounds) < repeats and (
    len(rounds) < 3 or time.perf_counter() - start < budget
  ):
    order = draw.sample(list(calls), len(calls))
    rounds.append({name: timer(calls[name]) for name in order})
  return {n: np.array([one[n] for one in rounds]) for n in calls}, slow


def least_processor_seconds(calls: Sequence[Call], rounds: int) -> np.ndarray:
  """The least processor time of each call, of all threads; calls take turns.

  Args:
    calls: the functions to time.
    rounds: at least 1.
  """

  def processor(call: Call) -> float:
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start

  taken = [[processor(call) for call in calls] for _ in range(rounds)]
  return np.min(taken, axis=0)


def ratio(a: np.ndarray, b: np.ndarray) -> float:
  """Time of a divided by that of b: the median over rounds."""
  return float(np.median(a / b))


_COPIED = 2**26  # Bytes that one call of `copy` reads, and that it writes.


def copy() -> tuple[Program, int]:
  """A program that only reads and writes arrays, and its bytes."""
  x = jnp.ones(_COPIED // 4, jnp.float32)
  return build(lower(lambda x: 2 * x, x)), 2 * _COPIED


# The rate of these matrix products is the limit for the ops: one of 1024^3,
# and many with the size of one head's chunk.
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
