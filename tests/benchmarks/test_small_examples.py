"""The examples beat their baselines, and their data are exact."""

import jax
import numpy as np
import pytest

from benchmarks.examples import burgers, matrix_products, signatures, tucker


@pytest.fixture(autouse=True)
def as_a_reader():
  """JAX's own promotion, which optax needs."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def test_solutions_of_burgers_equation_are_those_of_a_time_stepper():
  """By the classical Runge-Kutta method in Fourier space."""
  initial, exact = burgers.draw(2, 0)
  steps, points = 2000, 256
  u = initial[:, :: initial.shape[1] // points]
  k = 2j * np.pi * np.fft.rfftfreq(points, 1 / points)
  h, viscosity = burgers.TIME / steps, burgers.VISCOSITY

  def slope(u):
    spectrum = np.fft.rfft(u)
    square = np.fft.rfft(u**2 / 2)
    return np.fft.irfft(viscosity * k**2 * spectrum - k * square, points)

  for _ in range(steps):
    a = slope(u)
    b = slope(u + h / 2 * a)
    c = slope(u + h / 2 * b)
    d = slope(u + h * c)
    u = u + h / 6 * (a + 2 * b + 2 * c + d)
  np.testing.assert_allclose(
    exact[:, :: exact.shape[1] // points], u, atol=1e-6
  )


@pytest.mark.slow
def test_an_operator_beats_interpolation():
  apply = burgers.train(0, 1500)
  for points in (2 * burgers.POINTS, 4 * burgers.POINTS):
    operator, linear = burgers.evaluate(apply, points)
    assert operator < linear


@pytest.mark.slow
def test_a_tensor_is_recovered_at_the_level_of_its_noise():
  with jax.enable_x64(True):
    errors = tucker.fit(0, 500)
  assert errors["Tucker"] < 0.06 < errors["interpolation"] / 5


@pytest.mark.slow
def test_signatures_locate_a_vehicle():
  errors = signatures.run(signatures.vehicle, 0)
  assert 20 * errors["signature"] < errors["interpolation"] < errors["mean"]


@pytest.mark.slow
def test_a_matrix_product_reads_digits():
  found, baseline = matrix_products.run(0, 800)
  assert found > baseline


@pytest.mark.slow
def test_a_gaussian_process_forecasts_co2():
  pytest.importorskip("statsmodels")
  from benchmarks.examples import co2

  with jax.enable_x64(True):
    errors = co2.forecast(0, 60)
  assert 3 * errors["gaussian process"] < errors["seasonal naive"]
