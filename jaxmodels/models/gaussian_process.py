"""Regression of a series with a Gaussian process, in time linear in L.

The covariance is that of a linear state-space model
(`jaxmodels.models.covariances`), so the Kalman filter and smoother compute what
dense regression computes with matrices of L^2 numbers: the same likelihood,
means and variances (Hartikainen & Särkkä 2010). `jaxmodels.ops.kalman_smoother`
runs them in parallel over time (Särkkä & García-Fernández 2021,
arXiv:1905.13002).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmodels.models.covariances import Covariance
from jaxmodels.ops import kalman_filter, kalman_smoother
from jaxmodels.ops.engine import checks

__all__ = ["GaussianProcess", "Posterior"]


class Posterior(NamedTuple):
  """Mean and variance of the noiseless values, given the observations; [L]."""

  mean: jax.Array
  variance: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianProcess:
  """A process f of mean zero, and observations `y(t) = f(t) + noise`.

  A pytree whose leaves are the parameters, so `jax.grad`, `jax.vmap` over
  several starts, and optax take it as it is. Times are in any order and may be
  equal. Use float64 (`jax.enable_x64`): covariances are squares, and lose twice
  the digits. The cost is that of `kalman_smoother` with the N of the covariance
  and M = 1.

  Attributes:
    covariance: The covariance of f, such as
      `Matern(1.0, 30.0) + Matern(0.5, 20.0) * Periodic(period=1.0)`.
    noise: The variance of the noise, above 0.
    method: The `method` of `jaxmodels.ops.kalman_filter`.
  """

  covariance: Covariance
  noise: jax.Array | float
  method: str = dataclasses.field(default="auto", metadata={"static": True})

  def log_marginal_likelihood(
    self, times: jax.Array, y: jax.Array, *, observed: jax.Array | None = None
  ) -> jax.Array:
    """The log density of the observations, [].

    Args:
      times: [L].
      y: [L].
      observed: [L] booleans; y is ignored where it is False.

    Raises:
      ValueError: An argument has a wrong shape; the message names it.
    """
    series = _sorted(*_checked(times, y, observed))
    return kalman_filter(**self._model(series), method=self.method)[1]

  def posterior(
    self,
    times: jax.Array,
    y: jax.Array,
    at: jax.Array | None = None,
    *,
    observed: jax.Array | None = None,
  ) -> Posterior:
    """The distribution of f, given the observations.

    Args:
      times: [L].
      y: [L].
      at: [M], the times of the answer, before, between and after the
        observations; None for `times`.
      observed: [L] booleans; y is ignored where it is False.

    Returns:
      mean and variance [M], or [L]. The variance of a new observation is
      larger by `noise`.

    Raises:
      ValueError: An argument has a wrong shape; the message names it.
    """
    times, y, observed = _checked(times, y, observed)
    count = 0
    if at is not None:
      checks.shape("GaussianProcess", "at", at, (None,), "[M]")
      at, count = jnp.asarray(at, times.dtype), times.shape[0]
      times = jnp.concatenate([times, at])
      y = jnp.concatenate([y, jnp.zeros_like(at)])
      observed = jnp.concatenate([observed, jnp.zeros(at.shape, bool)])
    series = _sorted(times, y, observed)
    model = self._model(series)
    states, _ = kalman_smoother(**model, method=self.method)
    # Undoes the sorting.
    order = jnp.argsort(series.order)[count:]
    H = model["H"][0]
    return Posterior(
      (states.mean @ H)[order],
      jnp.einsum("n,lnm,m->l", H, states.covariance, H)[order],
    )

  def fit(
    self,
    times: jax.Array,
    y: jax.Array,
    *,
    observed: jax.Array | None = None,
    steps: int = 200,
    optimizer: optax.GradientTransformation | None = None,
  ) -> tuple["GaussianProcess", jax.Array]:
    """Maximises the likelihood by the gradient, over the logarithms.

    Args:
      times: [L].
      y: [L].
      observed: [L] booleans; y is ignored where it is False.
      steps: Number of gradients.
      optimizer: By default Adam with a rate of 0.05, which changes a parameter
        by at most about 5% per step.

    Returns:
      the process with the fitted parameters, and the log likelihood [steps]
      before each step.

    Raises:
      ValueError: An argument has a wrong shape; the message names it.
    """
    times, y, observed = _checked(times, y, observed)
    series = _sorted(times, y, observed)
    optimizer = optax.adam(0.05) if optimizer is None else optimizer

    def loss(logs: "GaussianProcess") -> jax.Array:
      model = jax.tree.map(jnp.exp, logs)._model(series)
      return -kalman_filter(**model, method=self.method)[1]

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
      logs, moments = carry
      value, gradient = jax.value_and_grad(loss)(logs)
      updates, moments = optimizer.update(gradient, moments, logs)
      return (optax.apply_updates(logs, updates), moments), -value

    logs = jax.tree.map(jnp.log, self._wide(y.dtype))
    start = logs, optimizer.init(logs)
    (logs, _), likelihoods = jax.lax.scan(body, start, length=steps)
    return jax.tree.map(jnp.exp, logs), likelihoods

  def _wide(self, dtype: Any) -> "GaussianProcess":
    """The parameters as arrays of one dtype."""
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), self)

  def _model(self, series: "_Series") -> dict[str, Any]:
    """The arguments of the Kalman ops."""
    dtype = series.y.dtype
    own = self._wide(dtype)
    covariance = own.covariance
    # The state before the first step is that at the first time.
    gaps = jnp.diff(series.times, prepend=series.times[:1])
    F, Q = jax.vmap(covariance.step)(gaps)
    H = jnp.asarray(covariance.readout(), dtype)
    return {
      "y": series.y[:, None],
      "F": F,
      "Q": Q,
      "H": H[None],
      "R": jnp.reshape(jnp.asarray(own.noise), (1, 1)),
      "mean": jnp.zeros_like(H),
      "covariance": covariance.prior(),
      "observed": series.observed,
    }


class _Series(NamedTuple):
  """A series in the order of time, and the order that made it so; each [L]."""

  times: jax.Array
  y: jax.Array
  observed: jax.Array
  order: jax.Array


def _sorted(times: jax.Array, y: jax.Array, observed: jax.Array) -> _Series:
  order = jnp.argsort(times)
  return _Series(times[order], y[order], observed[order], order)


def _checked(
  times: jax.Array, y: jax.Array, observed: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The arguments as arrays [L]; times and y of one dtype."""
  name = "GaussianProcess"
  checks.shape(name, "times", times, (None,), "[L]")
  length = times.shape[0]
  checks.shape(name, "y", y, (length,), "[L]")
  dtype = jnp.result_type(float, times, y)
  if observed is None:
    observed = jnp.ones(length, bool)
  checks.shape(name, "observed", observed, (length,), "[L]")
  return (
    jnp.asarray(times, dtype),
    jnp.asarray(y, dtype),
    jnp.asarray(observed, bool),
  )
