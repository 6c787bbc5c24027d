"""Ridge regression on signatures of series sampled at uneven times.

python -m benchmarks.examples.signatures

"sunspots": the next yearly number from 60% of the 24 years before, a random
choice for every series (the yearly means since 1700, which come with
statsmodels: the extra `series`; square roots of them). "vehicle": the place of
a vehicle with two wheels from 40 readings of its odometers at uneven times, a
generated problem. Features are the signatures of the path (time, value), or
(left, right), for the vehicle up to level 5; for the sunspots up to level 3, of
the path's whole, halves, thirds and quarters (Morrill et al. 2021,
arXiv:2006.00873). The baselines: ridge regression on the series interpolated at
even times, the last value (of the vehicle: straight ahead), and the mean.

Expect root mean squared errors of 0.003 to 0.006 for the vehicle, where the
interpolation has 0.18 to 0.20 and the mean 0.40 to 0.42, over three seeds in
20 seconds. For the sunspots they are 0.71 to 0.76; the last value has 0.97 to
1.00 and the mean 1.11. The interpolation is better there, with 0.58 to 0.63:
the next number is close to a linear function of the last ones.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxmodels import ops

_YEARS, _KEPT = 24, 0.6
_STRENGTHS = 10.0 ** np.arange(-6, 1)


class Problem(NamedTuple):
  """Features by name, each [n, F], targets [n, M], and last values [n, M]."""

  features: dict[str, np.ndarray]
  target: np.ndarray
  last: np.ndarray


def signatures(paths: np.ndarray, depth: int) -> np.ndarray:
  """Signatures [n, N] of paths [n, L, D] that start at 0."""
  dx = np.diff(paths, axis=1, prepend=0 * paths[:, :1])
  run = jax.jit(lambda dx: ops.signature(dx, depth=depth)[1])
  with jax.enable_x64(True):
    return np.asarray(run(dx))


def pieces(
  times: np.ndarray, values: np.ndarray, most: int
) -> list[np.ndarray]:
  """The path in 1, 2, ..., `most` pieces of equal duration, each [n, L, 2]."""
  found = []
  for count in range(1, most + 1):
    for i in range(count):
      start, stop = -1 + i / count, -1 + (i + 1) / count
      inside = np.clip(times, start, stop)
      rows = zip(inside, times, values, strict=True)
      at = np.stack([np.interp(t, own, v) for t, own, v in rows])
      found.append(np.stack([(inside - start) * count, at], -1))
  return found


def sunspots(rng: np.random.Generator, split: str) -> Problem:
  """Windows of the years before 1870, to 1910, and to 2008."""
  from statsmodels.datasets import sunspots as source

  y = np.sqrt(source.load_pandas().data["SUNACTIVITY"].to_numpy())
  y = (y - 6) / 3
  start, stop = {
    "train": (_YEARS, 170),
    "validation": (170, 210),
    "test": (210, len(y)),
  }[split]
  ends = np.repeat(np.arange(start, stop), 1 if split == "test" else 8)
  kept = round(_KEPT * _YEARS)
  chosen = np.stack(
    [np.sort(rng.choice(_YEARS, kept, replace=False)) for _ in ends]
  )
  values, times = y[ends[:, None] - _YEARS + chosen], chosen / _YEARS - 1
  even = np.arange(_YEARS) / _YEARS - 1
  own = [signatures(path, 3) for path in pieces(times, values, 4)]
  pairs = zip(times, values, strict=True)
  features = {
    "signature": np.concatenate(own, 1),
    "interpolation": np.stack([np.interp(even, t, v) for t, v in pairs]),
  }
  return Problem(features, y[ends, None], values[:, -1:])


def vehicle(rng: np.random.Generator, split: str) -> Problem:
  """Two wheels at smoothly varying speeds, 200 steps."""
  count, steps, readings = (400 if split == "train" else 200), 200, 40
  time = np.linspace(0, 1, steps)
  waves = np.cos(np.pi * np.arange(5)[:, None] * time)
  speed = 1 + 0.6 * rng.normal(size=(count, 2, 5)) @ waves
  wheels = np.cumsum(speed / steps, -1)
  heading = wheels[:, 1] - wheels[:, 0]
  ahead = speed.mean(1) / steps
  place = np.stack([ahead * np.cos(heading), ahead * np.sin(heading)], -1).sum(
    1
  )
  at = np.stack(
    [np.sort(rng.choice(steps, readings, replace=False)) for _ in range(count)]
  )
  at[:, -1] = steps - 1  # The last reading is at the end.
  read = np.take_along_axis(wheels, at[:, None], 2)
  even = np.linspace(0, 1, 20)
  regular = [
    [np.interp(even, time[when], wheel) for wheel in own]
    for when, own in zip(at, read, strict=True)
  ]
  features = {
    "signature": signatures(np.moveaxis(read, 1, 2), 5),
    "interpolation": np.array(regular).reshape(count, -1),
  }
  # A vehicle that went straight ahead.
  straight = np.stack([read[:, :, -1].mean(1), np.zeros(count)], -1)
  return Problem(features, place, straight)


def ridge(name: str, train: Problem, validation: Problem, test: Problem):
  """Predictions [n, M]; the strength is that of the least validation error."""
  x, level = train.features[name], train.target.mean(0)
  centre, scale = x.mean(0), x.std(0) + 1e-9

  def scaled(problem: Problem) -> np.ndarray:
    return (problem.features[name] - centre) / scale

  x = scaled(train)
  fits = [
    np.linalg.solve(
      x.T @ x + strength * len(x) * np.eye(x.shape[1]),
      x.T @ (train.target - level),
    )
    for strength in _STRENGTHS
  ]

  def error(weights: np.ndarray) -> float:
    return rms(scaled(validation) @ weights + level - validation.target)

  return scaled(test) @ min(fits, key=error) + level


def rms(error: np.ndarray) -> float:
  """The root mean square."""
  return float(np.sqrt(np.mean(error**2)))


def run(
  problem: Callable[[np.random.Generator, str], Problem], seed: int
) -> dict[str, float]:
  """Root mean squared errors of the test split."""
  rng = np.random.default_rng(seed)
  splits = [problem(rng, name) for name in ("train", "validation", "test")]
  train, _, test = splits
  found = {
    name: rms(ridge(name, *splits) - test.target) for name in train.features
  }
  found["last value"] = rms(test.last - test.target)
  found["mean"] = rms(train.target.mean(0) - test.target)
  return found


def main() -> None:
  """Prints one line per problem and seed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  options = parser.parse_args()
  for problem in (vehicle, sunspots):
    for seed in options.seeds:
      errors = run(problem, seed).items()
      text = ", ".join(f"{name} {error:.3f}" for name, error in errors)
      print(f"{problem.__name__}, seed {seed}: {text}")


if __name__ == "__main__":
  main()
