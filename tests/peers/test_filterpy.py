"""Equal to the Kalman filter and smoother of filterpy, in float64.

It has no gradients. Its likelihoods are those of each step.
"""

import jax
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing import relative_error, tolerance
from tests.peers.compare import load

pytestmark = pytest.mark.slow


def model(length=60, states=3, observations=2):
  """Another model at every step."""
  rng = np.random.default_rng(0)

  def covariances(size, *count):
    root = rng.standard_normal((*count, size, size))
    return root @ root.swapaxes(-1, -2) + np.eye(size)

  return {
    "y": rng.standard_normal((length, observations)),
    "F": rng.standard_normal((length, states, states)) / 2,
    "Q": covariances(states, length),
    "H": rng.standard_normal((length, observations, states)),
    "R": covariances(observations, length),
    "mean": rng.standard_normal(states),
    "covariance": covariances(states),
  }


@pytest.fixture(scope="module")
def expected():
  """What filterpy filters and smooths, and its log likelihood."""
  kalman = load("filterpy.kalman")
  given = model()
  peer = kalman.KalmanFilter(dim_x=3, dim_z=2)
  peer.x, peer.P = given["mean"][:, None], given["covariance"]
  means, covariances, log_likelihood = [], [], 0.0
  for t, y in enumerate(given["y"]):
    peer.predict(F=given["F"][t], Q=given["Q"][t])
    peer.update(y[:, None], R=given["R"][t], H=given["H"][t])
    means.append(peer.x)
    covariances.append(peer.P)
    log_likelihood += peer.log_likelihood
  filtered = np.array(means), np.array(covariances)
  smoothed = peer.rts_smoother(*filtered, Fs=given["F"], Qs=given["Q"])[:2]
  return filtered, smoothed, log_likelihood


@pytest.mark.parametrize(
  "method", ["recurrent", "chunk_parallel", "associative"]
)
@pytest.mark.parametrize("smooth", [False, True])
def test_kalman(expected, smooth, method):
  op = ops.kalman_smoother if smooth else ops.kalman_filter
  with jax.enable_x64(True):
    states, log_likelihood = op(**model(), method=method)
  means, covariances = expected[smooth]
  errors = {
    "mean": relative_error(states.mean, means[..., 0]),
    "covariance": relative_error(states.covariance, covariances),
    "log likelihood": relative_error(log_likelihood, expected[2]),
  }
  print(f"\n{op.__name__} {method}: {max(errors.values()):.1e}")
  assert max(errors.values()) < tolerance(np.float64), errors
