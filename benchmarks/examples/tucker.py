"""A tensor with a continuous time mode, by Tucker and a Gaussian process.

python -m benchmarks.examples.tucker

    y(i, j, t) = sum_{r, a, b} core_{r a b} A_{i a} B_{j b} U_r(t) + noise

U_1, ..., U_R are independent Gaussian processes. For given A, B and core, y is
linear in them, so the Kalman filter integrates them out: the likelihood of A, B
and core is exact, and they are fitted by its gradient. The smoother then gives
every entry at any time. After Fang et al. 2023, "Functional Bayesian Tucker
Decomposition for Continuous-indexed Tensor Data", arXiv:2311.04829. Departures:
one mode is continuous, not all; A, B and core are point estimates.

The data are generated: 6 x 5 entries at 60 uneven times, smooth in time and of
ranks (2, 2, 2), of which one in five is observed. The baseline interpolates
each entry linearly between its own observations.

Expect root mean squared errors of 0.053, 0.054 and 0.055 for the seeds 0, 1 and
2, where the noise is 0.05 and interpolation has 0.63, 0.33 and 0.63.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels.models.covariances import Matern
from jaxmodels.ops import kalman_filter, kalman_smoother

_ROWS, _COLUMNS, _RANK, _TIMES = 6, 5, 2, 60


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Times [L], the tensor [L, entries] with noise, and what is observed."""
  rng = np.random.default_rng(seed)
  times = np.sort(rng.uniform(0, 1, _TIMES))
  waves = np.stack(
    [np.sin(2 * np.pi * (k + 1) * times + rng.uniform(0, 6)) for k in (0, 1)]
  )
  core, A, B = (
    rng.normal(size=shape)
    for shape in ((_RANK,) * 3, (_ROWS, _RANK), (_COLUMNS, _RANK))
  )
  y = np.einsum("rab,ia,jb,rt->tij", core, A, B, waves).reshape(_TIMES, -1)
  y = y / y.std() + 0.05 * rng.normal(size=y.shape)
  return times, y, rng.uniform(size=y.shape) < 0.2


def model(params: Any, times: jax.Array, y: jax.Array, seen: jax.Array) -> Any:
  """The arguments of the Kalman ops, and the map from states to entries.

  Entries that are not seen say nothing: their rows of H are 0.
  """
  covariance = Matern(1.0, jnp.exp(params["lengthscale"]), 2.5)
  steps = jax.vmap(covariance.step)(jnp.diff(times, prepend=times[:1]))
  same = jnp.eye(_RANK)
  weights = jnp.einsum(
    "rab,ia,jb->ijr", params["core"], params["A"], params["B"]
  ).reshape(-1, _RANK)
  # [entries, R N]: the value of each process, times its weight.
  read = jnp.kron(weights, covariance.readout()[None])
  return {
    "y": jnp.where(seen, y, 0),
    "F": jnp.kron(same[None], steps.F),
    "Q": jnp.kron(same[None], steps.Q),
    "H": jnp.where(seen[..., None], read, 0),
    # A variance that no parameter changes, where nothing is seen.
    "R": jnp.where(seen, jnp.exp(params["noise"]), 1)[..., None]
    * jnp.eye(y.shape[1])[None],
    "mean": jnp.zeros(read.shape[1]),
    "covariance": jnp.kron(same, covariance.prior()),
  }, read


def fit(seed: int, steps: int) -> dict[str, float]:
  """Root mean squared errors of the entries that were not observed."""
  times, y, seen = draw(seed)
  rng = np.random.default_rng([seed, 1])
  params = {
    "core": rng.normal(size=(_RANK,) * 3),
    "A": rng.normal(size=(_ROWS, _RANK)),
    "B": rng.normal(size=(_COLUMNS, _RANK)),
    "lengthscale": np.log(0.3),
    "noise": np.log(0.1),
  }
  optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

  def loss(params):
    prior = sum(jnp.sum(params[name] ** 2) for name in ("core", "A", "B"))
    return 0.5 * prior - kalman_filter(**model(params, times, y, seen)[0])[1]

  def body(carry, _):
    params, moments = carry
    updates, moments = optimizer.update(jax.grad(loss)(params), moments)
    return (optax.apply_updates(params, updates), moments), None

  def run(params):
    start = params, optimizer.init(params)
    params = jax.lax.scan(body, start, length=steps)[0][0]
    arguments, read = model(params, times, y, seen)
    return kalman_smoother(**arguments)[0].mean @ read.T

  found = np.asarray(jax.jit(run)(params))
  linear = np.stack(
    [
      np.interp(times, times[own], values[own]) if own.any() else 0 * values
      for values, own in zip(y.T, seen.T, strict=True)
    ],
    1,
  )

  def error(predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - y)[~seen] ** 2)))

  return {
    "Tucker": error(found),
    "interpolation": error(linear),
    "zero": error(np.zeros_like(y)),
  }


def main() -> None:
  """Prints one line per seed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--steps", type=int, default=500)
  options = parser.parse_args()
  with jax.enable_x64(True):
    for seed in options.seeds:
      errors = fit(seed, options.steps).items()
      text = ", ".join(f"{name} {error:.3f}" for name, error in errors)
      print(f"seed {seed}: {text}", flush=True)


if __name__ == "__main__":
  main()
