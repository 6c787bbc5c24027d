"""HiPPO: its states are the coefficients that it promises."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from jaxmodels.layers.hippo import (
  BASES,
  diagonal_eigenvalues,
  diagonalise,
  hippo,
  normal_plus_low_rank,
)

SIZE = 16


def legendre(n, s):
  return np.sqrt(2 * n + 1) * scipy.special.eval_legendre(n, s)


def fourier(n, s):
  wave = np.sin if n % 2 else np.cos
  return (1 if n == 0 else np.sqrt(2)) * wave(2 * np.pi * (n // 2) * s)


def kernels(basis, size, step, count):
  """e^(tA) B, the weight of the input t ago in each coefficient: [T, N]."""
  matrix, b = hippo(basis, size)
  propagator, rows = scipy.linalg.expm(step * matrix), [b]
  for _ in range(count - 1):
    rows.append(propagator @ rows[-1])
  return step * np.arange(count), np.stack(rows)


def test_legs_weights_are_exponentially_warped_legendre_polynomials():
  times, got = kernels("legs", SIZE, 0.25, 20)
  for n in range(SIZE):
    wanted = np.exp(-times) * legendre(n, 2 * np.exp(-times) - 1)
    np.testing.assert_allclose(got[:, n], wanted, atol=1e-9)


@pytest.mark.parametrize(
  ("basis", "phi"),
  [("legt", lambda n, s: legendre(n, 1 - 2 * s)), ("fout", fourier)],
)
def test_windows_hold_sliding_coefficients(basis, phi):
  """int_0^1 u(t - s) phi_n(s) ds, the better the more coefficients."""
  at = (np.arange(4000) + 0.5) / 4000

  def signal(t):
    return np.cos(2.3 * t + 0.4) + 0.5 * np.sin(5.1 * t)

  errors = []
  for size in (16, 64):
    # The exact state of a sum of exponentials, long after the start.
    matrix, b = hippo(basis, size)

    def steady(frequency, matrix=matrix, b=b):
      return np.linalg.solve(1j * frequency * np.eye(len(b)) - matrix, b)

    t = 7.7
    state = (steady(2.3) * np.exp(1j * (2.3 * t + 0.4))).real
    state += 0.5 * (steady(5.1) * np.exp(5.1j * t)).imag
    wanted = [np.mean(signal(t - at) * phi(n, at)) for n in range(6)]
    errors.append(np.abs(state[:6] - wanted).max())
  scale = np.abs(wanted).max()
  assert errors[1] < 1e-2 * scale
  # The Fourier series of the jump at the ends of the window converges slowly.
  assert errors[1] < 0.5 * errors[0] or errors[0] < 1e-6 * scale


def test_fout_forgets_after_its_window():
  times, got = kernels("fout", 128, 0.1, 20)
  for n in (0, 2, 3, 4):
    wanted = fourier(n, times[1:10])
    np.testing.assert_allclose(got[1:10, n], wanted, atol=0.05)
  np.testing.assert_allclose(got[11:, :5], 0, atol=0.05)


@pytest.mark.parametrize("basis", BASES)
def test_normal_plus_low_rank(basis):
  matrix, b = hippo(basis, SIZE)
  normal, low_rank = normal_plus_low_rank(basis, SIZE)
  np.testing.assert_allclose(
    normal @ normal.T, normal.T @ normal, atol=1e-9 * np.abs(normal).max() ** 2
  )
  assert low_rank.shape[1] == (2 if basis == "legt" else 1)
  np.testing.assert_allclose(normal - low_rank @ low_rank.T, matrix, atol=1e-9)
  found = diagonalise(basis, SIZE)
  together = np.concatenate([found.vectors, found.vectors.conj()], 1)
  np.testing.assert_allclose(
    together.conj().T @ together, np.eye(SIZE), atol=1e-9
  )
  again = 2 * ((found.vectors * found.eigenvalues) @ found.vectors.conj().T)
  p = 2 * (found.vectors @ found.low_rank).real
  np.testing.assert_allclose(again.real - p @ p.T, matrix, atol=1e-9)
  np.testing.assert_allclose(2 * (found.vectors @ found.B).real, b, atol=1e-9)


def test_diagonal_eigenvalues():
  lin = diagonal_eigenvalues("lin", 8)
  np.testing.assert_allclose(lin, -0.5 + 1j * np.pi * np.arange(4))
  # "inv" approximates "legs" at its large eigenvalues.
  inv = diagonal_eigenvalues("inv", 256)
  legs = diagonal_eigenvalues("legs", 256)
  for values in (inv, legs):
    np.testing.assert_array_equal(values.real, -0.5)
  wanted = np.sort(legs.imag)[::-1][:8]
  np.testing.assert_allclose(inv.imag[:8], wanted, rtol=0.06)


@pytest.mark.parametrize("function", [hippo, diagonal_eigenvalues])
def test_unknown_bases_are_named(function):
  with pytest.raises(ValueError, match=r"must be one of .*, got 'leg'"):
    function("leg", 4)
