"""Rotary positions: a part of the channels, and longer sequences."""

import numpy as np
import pytest

from jaxmodels.layers import rotate

X = np.random.default_rng(0).normal(size=(1, 5, 2, 8)).astype(np.float32)
AT = np.array([[0, 1, 7, 300, 5000]], np.int32)


def test_a_fraction_rotates_the_first_channels_as_if_alone():
  y = rotate(X, AT, fraction=0.5)
  np.testing.assert_array_equal(y[..., 4:], X[..., 4:])
  np.testing.assert_array_equal(y[..., :4], rotate(X[..., :4], AT))
  np.testing.assert_array_equal(rotate(X, AT, fraction=0), X)
  with pytest.raises(ValueError, match="x must have K even, got 3"):
    rotate(X, AT, fraction=3 / 8)


def test_a_factor_divides_positions():
  wanted = rotate(X, AT, 100.0)
  np.testing.assert_allclose(
    rotate(X, 4 * AT, 100.0, factor=4.0), wanted, atol=1e-5
  )


def test_with_an_original_length_fast_speeds_stay():
  """By the equations of YaRN, in complex numbers."""
  length, factor, (low, high) = 4096, 8.0, (1, 4)
  speeds = 10_000.0 ** (-np.arange(4) / 4)
  r = length * speeds / (2 * np.pi)
  keep = np.clip((r - low) / (high - low), 0, 1)
  assert keep[0] == 1 and keep[-1] == 0 and 0 < keep[2] <= 1
  speeds = keep * speeds + (1 - keep) * speeds / factor
  turn = np.exp(1j * AT[0, :, None, None] * speeds)
  y = (X[0, ..., :4] + 1j * X[0, ..., 4:]) * turn
  got = rotate(X, AT, factor=factor, original_length=length, turns=(low, high))
  wanted = np.concatenate([y.real, y.imag], -1)
  np.testing.assert_allclose(got[0], wanted, atol=1e-5)


@pytest.mark.parametrize("ramp", ["channels", "whole_channels"])
def test_published_models_of_yarn_interpolate_by_the_index(ramp):
  """And multiply by a gain; ends by the equations of their code."""
  length, factor, base = 64, 8.0, 100.0
  x = np.random.default_rng(1).normal(size=(1, 5, 1, 24))
  index = np.arange(12)
  # base^(-index / 12) makes 2 turns, or 1/2 turn, at these indices.
  first, last = (
    12 * np.log(length / (2 * np.pi * np.array([2, 0.5]))) / np.log(base)
  )
  if ramp == "whole_channels":
    first, last = np.floor(first), np.ceil(last)
  away = np.clip((index - first) / (last - first), 0, 1)
  assert ((away > 0) & (away < 1)).sum() > 1
  speeds = base ** (-index / 12) * (1 - away + away / factor)
  turn = 1.5 * np.exp(1j * AT[0, :, None, None] * speeds)
  y = (x[0, ..., :12] + 1j * x[0, ..., 12:]) * turn
  got = rotate(
    x.astype(np.float32), AT, base, factor=factor, original_length=length,
    turns=(0.5, 2.0), ramp=ramp, gain=1.5,
  )  # fmt: skip
  wanted = np.concatenate([y.real, y.imag], -1)
  np.testing.assert_allclose(got[0], wanted, atol=2e-5)


def test_an_unknown_ramp_is_refused():
  with pytest.raises(ValueError, match="ramp must be one of turns, channels"):
    rotate(X, AT, ramp="steps", original_length=4)
