"""SI-SDR beside its formula, and its invariances."""

import itertools

import jax
import numpy as np
import pytest

from train.losses import Separation
from train.losses.separation import si_sdr

RNG = np.random.default_rng(0)
TARGETS = RNG.normal(size=(3, 2, 50)).astype(np.float32)
ESTIMATES = (TARGETS + 0.5 * RNG.normal(size=TARGETS.shape)).astype(np.float32)
BATCH = {
  "inputs": TARGETS.sum(1),
  "targets": TARGETS,
  "weights": np.array([1, 2, 0.5], np.float32),
}


def decibels(estimate, target):
  e, s = (x.astype(np.float64) - x.mean() for x in (estimate, target))
  part = (e @ s) / (s @ s) * s
  return 10 * np.log10((part @ part) / ((part - e) @ (part - e)))


def found(estimates, batch=BATCH):
  loss = Separation()
  return loss.means(jax.jit(loss.sums)(estimates, batch))


def test_orthogonal_noise_has_a_known_ratio():
  """A sine, and a cosine of a tenth of its amplitude: exactly 20 dB."""
  time = 2 * np.pi * np.arange(64) / 64
  target = np.sin(3 * time).astype(np.float32)
  estimate = (4 * np.sin(3 * time) + 0.4 * np.cos(3 * time) + 5).astype(
    np.float32
  )
  np.testing.assert_allclose(jax.jit(si_sdr)(estimate, target), 20, atol=1e-3)


def test_perfect_and_silent_estimates_have_finite_ratios():
  value = jax.jit(jax.value_and_grad(lambda e: si_sdr(e, TARGETS[0, 0])))
  for estimate, wanted in ((TARGETS[0, 0], 80), (0 * TARGETS[0, 0], -80)):
    ratio, slope = value(estimate)
    np.testing.assert_allclose(ratio, wanted, atol=0.1)
    assert np.all(np.isfinite(slope))


def test_the_loss_is_that_of_the_best_pairing_of_each_row():
  estimates = ESTIMATES.copy()
  estimates[1] = estimates[1, ::-1]
  means = found(estimates)
  best, gain = [], []
  for row, truth, mixture in zip(
    estimates, TARGETS, BATCH["inputs"], strict=True
  ):
    best.append(
      max(
        np.mean([decibels(row[i], truth[p]) for i, p in enumerate(order)])
        for order in itertools.permutations(range(2))
      )
    )
    gain.append(best[-1] - np.mean([decibels(mixture, s) for s in truth]))
  weights = BATCH["weights"]
  np.testing.assert_allclose(
    means["si_sdr"], np.average(best, weights=weights), rtol=1e-4
  )
  np.testing.assert_allclose(
    means["si_sdr_improvement"], np.average(gain, weights=weights), rtol=1e-4
  )
  assert means["loss"] == -means["si_sdr"]


def test_neither_order_nor_scale_matters():
  means = found(ESTIMATES)
  scales = np.array([0.01, 300], np.float32)[None, :, None]
  other = found(np.ascontiguousarray(ESTIMATES[:, ::-1]) * scales)
  np.testing.assert_allclose(other["si_sdr"], means["si_sdr"], rtol=1e-4)
  # The mixture improves nothing on itself.
  mixture = np.repeat(BATCH["inputs"][:, None], 2, 1)
  np.testing.assert_allclose(found(mixture)["si_sdr_improvement"], 0, atol=1e-4)


def test_wrong_shapes_are_named():
  with pytest.raises(ValueError, match=r"shape \(3, 1, 50\), the targets"):
    Separation().sums(ESTIMATES[:, :1], BATCH)
