"""The continuous wavelet transform beside its sum."""

import jax
import numpy as np
import pytest

from jaxmodels.layers.wavelets import geometric_scales, wavelet_transform

RNG = np.random.default_rng(0)
SCALES = geometric_scales(5, 2, 24)


def summed(x, scales, w=6.0):
  """The definition, scale by scale and step by step."""
  found = np.zeros((len(scales), len(x)), complex)
  for i, a in enumerate(scales):
    for t in range(len(x)):
      u = (np.arange(len(x)) - t) / a
      psi = np.pi**-0.25 * np.exp(1j * w * u) * np.exp(-(u**2) / 2)
      found[i, t] = np.sum(x * np.conj(psi)) / np.sqrt(a)
  return found


def test_the_transform_is_its_sum():
  x = RNG.normal(size=(2, 21))
  with jax.enable_x64(True):
    found = jax.jit(lambda x: wavelet_transform(x, SCALES))(x)
    assert found.dtype == np.complex128
    found = np.asarray(found)
    for row, own in zip(x, found, strict=True):
      np.testing.assert_allclose(own, summed(row, SCALES), atol=1e-13)


def test_a_wave_is_found_at_its_period_and_moves_with_the_series():
  length, period = 21, SCALES[2] * 2 * np.pi / 6
  bump = np.exp(-(((np.arange(length) - 10) / 3) ** 2))
  x = (bump * np.cos(2 * np.pi * np.arange(length) / period))[None]
  x = np.where(bump > 1e-3, x, 0)
  moved = np.roll(x, 2)
  found = jax.jit(lambda x: wavelet_transform(x, SCALES))(
    np.concatenate([x, moved]).astype(np.float32)
  )
  first, second = np.asarray(found)
  assert np.abs(first).max(1).argmax() == 2
  np.testing.assert_allclose(second[:, 2:], first[:, :-2], atol=1e-5)


def test_mistakes_are_named():
  x = np.zeros((1, 4), np.float32)
  with pytest.raises(ValueError, match="scales must be numbers above 0"):
    wavelet_transform(x, np.array([1.0, 0.0]))
  with pytest.raises(ValueError, match="x must be real floating point"):
    wavelet_transform(x.astype(int), SCALES)
  with pytest.raises(ValueError, match="0 < shortest <= longest"):
    geometric_scales(3, 4, 2)
