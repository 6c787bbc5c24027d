"""Gaussian processes by the Kalman scans equal dense regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import GaussianProcess
from jaxmodels.models.covariances import Cosine, Matern, Periodic
from jaxmodels.testing import relative_error

LENGTH = 24
NOISE = 0.05
RNG = np.random.default_rng(0)
TIMES = RNG.permutation(np.cumsum(RNG.exponential(0.4, LENGTH)))
TIMES[3] = TIMES[7]  # Two observations at one time.
Y = np.sin(TIMES) + 0.2 * RNG.standard_normal(LENGTH)
SEEN = RNG.uniform(size=LENGTH) < 0.8
AT = np.array([-3.0, TIMES[5], 2.2, 30.0, 1.1])  # Before, at, between, after.


SMALL = Matern(0.8, 1.3, 2.5) + Matern(0.3, 6.0, 1.5) * Matern(1.1, 0.4, 0.5)
QUASI_PERIODIC = SMALL + Matern(0.7, 6.0) * Periodic(1.0, 2.0, 1.7, harmonics=5)


def dense(covariance):
  """Scikit-learn's regression with the same covariance, on what is seen."""
  from sklearn.gaussian_process import GaussianProcessRegressor
  from sklearn.gaussian_process import kernels as k

  C, M = k.ConstantKernel, k.Matern
  own = C(0.8) * M(1.3, nu=2.5) + C(0.3) * M(6, nu=1.5) * C(1.1) * M(
    0.4, nu=0.5
  )
  if covariance is QUASI_PERIODIC:
    own += C(0.7) * M(6.0, nu=1.5) * C(1.0) * k.ExpSineSquared(2.0, 1.7)
  own += k.WhiteKernel(NOISE)
  regression = GaussianProcessRegressor(own, alpha=0.0, optimizer=None)
  return regression.fit(TIMES[SEEN][:, None], Y[SEEN])


@pytest.mark.parametrize(
  ("covariance", "method"),
  [
    (SMALL, "recurrent"),
    pytest.param(SMALL, "chunk_parallel", marks=pytest.mark.slow),
    pytest.param(QUASI_PERIODIC, "recurrent", marks=pytest.mark.slow),
  ],
)
def test_is_dense_regression(covariance, method):
  """Likelihood, its gradient, means and variances, in float64.

  The order of times is random, some values are not observed.
  """
  regression = dense(covariance)
  mean, deviation = regression.predict(AT[:, None], return_std=True)
  theta = regression.kernel_.theta  # Logarithms.
  wanted, slopes = regression.log_marginal_likelihood(theta, True)
  with jax.enable_x64(True):
    model = GaussianProcess(covariance, NOISE, method)
    logs = jax.tree.map(np.log, model)

    @jax.jit
    def found(logs, times, y, observed):
      def likelihood(logs):
        return jax.tree.map(jnp.exp, logs).log_marginal_likelihood(
          times, y, observed=observed
        )

      own = jax.tree.map(jnp.exp, logs)
      posterior = own.posterior(times, y, AT, observed=observed)
      return posterior, jax.value_and_grad(likelihood)(logs)

    posterior, (value, gradient) = found(
      logs, TIMES, np.where(SEEN, Y, 1e3), SEEN
    )
  assert abs(float(value) - wanted) < 1e-6 * abs(wanted)
  assert relative_error(np.array(jax.tree.leaves(gradient)), slopes) < 1e-6
  assert relative_error(posterior.mean, mean) < 1e-6
  variance = deviation**2 - NOISE
  assert relative_error(posterior.variance, variance) < 1e-6


def test_a_product_with_a_cosine_is_its_formula():
  """Also with a gap so short that Q has entries of 1e-25."""
  lags = np.array([0.0, 1e-5, 0.3, 7.0, -2.0])
  r = np.sqrt(5) * np.abs(lags) / 1.5
  matern = 2.0 * (1 + r + r**2 / 3) * np.exp(-r)
  wanted = matern * 0.5 * np.cos(2 * np.pi * lags / 0.9)
  with jax.enable_x64(True):
    covariance = Matern(2.0, 1.5, 2.5) * Cosine(0.5, 0.9)
    got = jax.jit(jax.vmap(covariance))(lags)
    step = jax.jit(covariance.step)(np.float64(1e-5))
    prior = covariance.prior()
  np.testing.assert_allclose(got, wanted, atol=1e-12)
  step, prior = (jax.tree.map(np.asarray, x) for x in (step, prior))
  np.testing.assert_allclose(
    step.F @ prior @ step.F.T + step.Q, prior, atol=1e-12
  )
  assert np.linalg.eigvalsh(step.Q).min() > -1e-17
  assert 0 < step.Q[0, 0] < 1e-24


@pytest.mark.slow
def test_fits_what_scikit_learn_fits():
  """The maximum of the likelihood, where L-BFGS on dense matrices finds it."""
  from sklearn.gaussian_process import GaussianProcessRegressor
  from sklearn.gaussian_process import kernels as k

  rng = np.random.default_rng(1)
  times = np.sort(rng.uniform(0, 60, 150))
  y = np.sin(times) + np.cos(0.3 * times) + 0.3 * rng.standard_normal(150)
  own = k.ConstantKernel(0.5) * k.Matern(1.0, nu=1.5) + k.WhiteKernel(0.5)
  dense = GaussianProcessRegressor(own, alpha=0.0).fit(times[:, None], y)
  # optax promotes dtypes.
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    start = GaussianProcess(Matern(0.5, 1.0), 0.5)
    fitted, likelihoods = start.fit(times, y, steps=400)
  wanted = np.exp(dense.kernel_.theta)
  np.testing.assert_allclose(jax.tree.leaves(fitted), wanted, rtol=0.01)
  assert likelihoods[-1] > likelihoods[0]


@pytest.mark.slow
def test_100_000_points():
  """Memory in proportion to the length; in the middle, dense regression.

  300 points are 10 lengthscales: points farther away say nothing.
  """
  rng = np.random.default_rng(2)
  with jax.enable_x64(True):
    model = GaussianProcess(Matern(1.0, 3.0, 2.5), 0.1)
    run = jax.jit(functools.partial(model.posterior))
    sizes = {}
    for length in (10_000, 100_000):
      times = np.linspace(0, length / 10, length)
      y = np.sin(times) + 0.3 * rng.standard_normal(length)
      compiled = run.lower(times, y).compile()
      sizes[length] = compiled.memory_analysis().temp_size_in_bytes
    posterior = run(times, y)
  assert sizes[100_000] < 11 * sizes[10_000]
  near = slice(49_700, 50_301)
  r = np.sqrt(5) / 3 * np.abs(times[near, None] - times[near])
  prior = (1 + r + r**2 / 3) * np.exp(-r)
  gain = np.linalg.solve(prior + 0.1 * np.eye(601), prior[300])
  assert relative_error(posterior.mean[50_000], gain @ y[near]) < 1e-6
  assert (
    relative_error(posterior.variance[50_000], 1 - gain @ prior[300]) < 1e-6
  )


def test_wrong_arguments_are_named():
  model = GaussianProcess(Matern(), 0.1)
  with pytest.raises(ValueError, match=r"y must be \[L\] = \(24\)"):
    model.log_marginal_likelihood(TIMES, Y[1:])
  with pytest.raises(ValueError, match="at must be"):
    model.posterior(TIMES, Y, AT[None])
  with pytest.raises(ValueError, match="observed must be"):
    model.log_marginal_likelihood(TIMES, Y, observed=SEEN[1:])
  with pytest.raises(ValueError, match=r"smoothness must be 0\.5"):
    Matern(smoothness=1.0)
  with pytest.raises(ValueError, match="harmonics must be"):
    Periodic(harmonics=0)
