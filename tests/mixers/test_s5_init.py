"""Facts about HiPPO that the initial S5 must have."""

import jax
import numpy as np

from jaxmodels.layers.hippo import hippo_normal_eigenvalues
from jaxmodels.mixers import S5

SIZE = 16


def test_eigenvalues_and_low_rank_give_back_hippo_legs():
  values, vectors = hippo_normal_eigenvalues(SIZE)
  np.testing.assert_array_equal(values.real, -0.5)
  assert (values.imag > 0).all()
  np.testing.assert_allclose(
    vectors.conj().T @ vectors, np.eye(SIZE // 2), atol=1e-12
  )
  # The other half are the conjugates: together twice the real part.
  normal = 2 * ((vectors * values) @ vectors.conj().T).real
  n = np.arange(SIZE)
  hippo = normal - np.sqrt(np.outer(n + 0.5, n + 0.5))
  for i in n:
    assert np.isclose(hippo[i, i], -(i + 1))
    for j in range(SIZE):
      if i > j:
        wanted = -np.sqrt((2 * i + 1) * (2 * j + 1))
        assert np.isclose(hippo[i, j], wanted), (i, j)
      elif i < j:
        assert np.isclose(hippo[i, j], 0, atol=1e-10), (i, j)


def test_hippo_legs_states_hold_the_legendre_coefficients():
  """x' = A x / t + B u / t projects u on [0, t] onto Legendre polynomials."""
  values, vectors = hippo_normal_eigenvalues(SIZE)
  n = np.arange(SIZE)
  p = np.sqrt(n + 0.5)
  hippo = 2 * ((vectors * values) @ vectors.conj().T).real - np.outer(p, p)
  b = np.sqrt(2 * n + 1)
  # Of u = 1 the coefficients are (1, 0, 0, ...), at rest in x.
  rest = np.eye(SIZE)[0]
  np.testing.assert_allclose(hippo @ rest + b, 0, atol=1e-9)
  # Of u = s they are t (1/2, 1 / (2 sqrt 3), 0, ...), growing with t.
  ramp = np.zeros(SIZE)
  ramp[:2] = 1 / 2, 1 / (2 * np.sqrt(3))
  np.testing.assert_allclose(hippo @ ramp + b, ramp, atol=1e-9)


def test_the_initial_layer_has_these_eigenvalues_in_every_block():
  layer = S5(width=6, state_width=2 * SIZE, blocks=2)
  init = jax.jit(layer.init)
  params = init(jax.random.key(0), np.zeros((1, 2, 6), np.float32))["params"]
  params = jax.tree.map(np.asarray, params)
  values, _ = hippo_normal_eigenvalues(SIZE)
  np.testing.assert_allclose(np.exp(params["log_decay_rate"]), 0.5, rtol=1e-6)
  np.testing.assert_allclose(
    params["frequency"], np.tile(values.imag, 2), rtol=1e-6
  )
  steps = np.exp(params["log_step"])
  assert (steps > 0.999e-3).all()
  assert (steps < 1.001e-1).all()
