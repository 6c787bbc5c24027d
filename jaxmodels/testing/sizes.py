"""Sizes of a mixer's outputs and gradients, and length of its memory.

Measured with the initial parameters of the mixer:
  - y: its root mean square, for x of independent normal numbers.
  - gradients: the root mean square of the gradient by each parameter, of
    sum(sin(y)) over 2 sequences.
  - memory, in tokens: x_{T-n} is changed, and the influence of n is the norm of
    the change of y_T. The memory is the smallest n for which the last n tokens
    before T have half of the influence of all tokens before T. Token T itself
    does not count: skip connections and gates pass it on without a memory.

For a state that decays by the same factor with every token the memory is its
half-life, rounded up. For the mean of a window of W tokens it is (W - 1) / 2.
For a mixer that does not read the past it is 0. The measurement takes 256
tokens; it cannot distinguish a memory above 64 from one without end. For a
mixer that reads the future, T is in the middle, x_{T-n} and x_{T+n} change
together, and the limit is 32.
"""

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxmodels.testing.compilation import jit
from jaxmodels.testing.evaluate import named
from jaxmodels.testing.trial import Trial

LENGTH = 256
_DRAWS = 3


class Sizes(NamedTuple):
  """The sizes of a mixer, see the module.

  Attributes:
    y: root mean square.
    gradients: root mean square, by the path of the parameter.
    memory: in tokens; inf if it is too long to measure, None if the mixer
      takes no sequence of 256 tokens.
  """

  y: float
  gradients: dict[str, float]
  memory: float | None


def measure(trial: Trial) -> Sizes:
  """Measures the sizes of a mixer."""
  by_params, _, y = trial.slopes(trial.initial, trial.length - 1)
  call, width = trial.apply(trial.module), trial.x.shape[-1]
  gradients = {name: _size(g) for name, g in named("", by_params).items()}
  memory = None
  with contextlib.suppress(ValueError):  # Such as a cache for fewer tokens.
    memory = memory_of(
      lambda x: call(trial.initial, x)[0], width, two_sided=not trial.causal
    )
  return Sizes(_size(y), gradients, memory)


def memory_of(
  function: Callable[[jax.Array], jax.Array],
  width: int,
  two_sided: bool = False,
) -> float:
  """The memory in tokens, see the module.

  Args:
    function: maps x [B, L, D] to y [B, L, D].
    width: D.
    two_sided: whether the function reads the future.

  Returns:
    tokens, or inf for more than a quarter of those on one side.
  """
  at = LENGTH // 2 if two_sided else LENGTH - 1
  reach = min(at, LENGTH - 1 - at) if two_sided else at
  # The influence of distant tokens changes slowly with the distance.
  distances = np.unique([*range(1, 17), *np.geomspace(16, reach, 20)]).round()
  distances = distances.astype(int)
  rows = np.arange(1, len(distances) + 1)
  output = jit(lambda x: function(x)[:, at])
  rng = np.random.default_rng(0)
  change = rng.standard_normal(width).astype(np.float32)
  total = np.zeros(len(distances))
  for _ in range(_DRAWS):
    x = rng.standard_normal((1, LENGTH, width)).astype(np.float32)
    x = np.repeat(x, len(distances) + 1, 0)
    x[rows, at - distances] += change
    if two_sided:
      x[rows, at + distances] += change
    y = np.asarray(output(x), np.float64)
    total += np.sum((y[1:] - y[0]) ** 2, 1)
  influence = np.interp(np.arange(1, reach + 1), distances, np.sqrt(total))
  reached = np.cumsum(influence)
  if not reached[-1]:
    return 0
  half = 0.499 * reached[-1]  # Less for rounding, where n is just enough.
  memory = 1 + int(np.searchsorted(reached, half))
  return memory if memory <= (reach + 1) // 4 else math.inf


def describe(sizes: Sizes) -> str:
  """Describes the sizes."""
  order = sorted(sizes.gradients, key=lambda name: sizes.gradients[name])
  gradients = ", ".join(f"{n} {sizes.gradients[n]:.1e}" for n in order)
  if sizes.memory is None:
    memory = f"not measured: the mixer takes no {LENGTH} tokens"
  elif math.isinf(sizes.memory):
    memory = f"more than {LENGTH // 4} tokens, or as many as there are"
  else:
    memory = f"{sizes.memory:.0f} tokens"
  return (
    "at the initial (or given) parameters, as root mean squares:\n"
    f"  y: {sizes.y:.1e}\n"
    f"  gradients: {gradients}\n"
    f"memory: {memory}"
  )


def _size(x: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.abs(x) ** 2)))
