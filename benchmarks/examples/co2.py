"""Forecasts of the CO2 at Mauna Loa by a Gaussian process.

python -m benchmarks.examples.co2

The weekly measurements of 1958 to 2001 (Keeling et al.; they come with
statsmodels: the extra `series`). The process is fitted to the years before a
cut and forecasts the three years after it. Each seed has a cut and initial
parameters of its own. The baselines repeat the last year ("seasonal naive"), or
add to it the growth of the last five years ("with growth").

Expect root mean squared errors of 0.54, 1.54 and 0.80 ppm for the seeds 0, 1
and 2, where the last year has 3.15, 4.08 and 3.75, and with growth 1.28, 1.24
and 1.26: one minute and a half of one core. From 97% to all weeks are within
two standard deviations of the forecast.
"""

import argparse

import jax
import numpy as np

from jaxmodels.models import GaussianProcess
from jaxmodels.models.covariances import Matern, Periodic

_WEEKS = 52.1775  # Weeks per year.
_AHEAD = 156  # Weeks of a forecast.
# Years between the cuts of two seeds.
_APART = 2


def load() -> tuple[np.ndarray, np.ndarray]:
  """Times in years since 1958 and ppm of CO2, [2284]; NaN where none is."""
  from statsmodels.datasets import co2

  series = co2.load_pandas().data["co2"]
  return np.arange(len(series)) / _WEEKS, series.to_numpy(np.float64)


def initial(rng: np.random.Generator) -> GaussianProcess:
  """A trend, a yearly cycle that drifts, and weather; in ppm and years."""
  process = GaussianProcess(
    Matern(400.0, 40.0, 2.5)
    + Matern(9.0, 60.0, 1.5) * Periodic(1.0, 1.5, 1.0, harmonics=4)
    + Matern(0.5, 1.5, 1.5)
    + Matern(0.1, 0.1, 0.5),
    noise=0.1,
  )
  return jax.tree.map(lambda p: p * np.exp(0.2 * rng.normal()), process)


def forecast(seed: int, steps: int) -> dict[str, float]:
  """Root mean squared errors of the forecasts, in ppm."""
  times, y = load()
  cut = len(y) - _AHEAD - round(_APART * seed * _WEEKS)
  rng = np.random.default_rng(seed)
  past, seen = y[:cut], ~np.isnan(y[:cut])
  level = past[seen].mean()
  known = times[:cut], np.where(seen, past - level, 0)
  ahead = times[cut : cut + _AHEAD]
  process = initial(rng)
  process, likelihoods = process.fit(*known, observed=seen, steps=steps)
  found = process.posterior(*known, ahead, observed=seen)
  truth = y[cut : cut + _AHEAD]
  there = ~np.isnan(truth)
  # Weeks without a value take that of the line between their neighbours.
  whole = np.interp(times[:cut], times[:cut][seen], past[seen])
  year = np.resize(whole[-52:], _AHEAD)
  growth = (whole[-52:].mean() - whole[-312:-260].mean()) / 5
  years = np.arange(_AHEAD) // 52 + 1

  def error(predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - truth)[there] ** 2)))

  spread = np.sqrt(np.asarray(found.variance + process.noise))
  mean = np.asarray(found.mean) + level
  return {
    "gaussian process": error(mean),
    "seasonal naive": error(year),
    "with growth": error(year + growth * years),
    "within two deviations": float(
      np.mean(np.abs(mean - truth)[there] < 2 * spread[there])
    ),
    "log likelihood": float(likelihoods[-1]),
  }


def main() -> None:
  """Prints one line per seed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--steps", type=int, default=60, help="gradients")
  options = parser.parse_args()
  with jax.enable_x64(True):
    for seed in options.seeds:
      found = forecast(seed, options.steps)
      print(
        f"seed {seed}:", ", ".join(f"{k} {v:.2f}" for k, v in found.items())
      )


if __name__ == "__main__":
  main()
