"""Definitions of the Kalman filter and smoother, token by token.

The textbook equations (Kalman 1960; Rauch, Tung & Striebel 1965), with explicit
inverses. The arguments are those of the ops.
"""

import jax.numpy as jnp

from jaxmodels.ops.kalman.gaussian import Gaussian


def kalman_filter(y, F, Q, H, R, mean, covariance, *, observed=None):
  """After each prediction, `K = P H^T S^-1; m + K (y - H m); P - K S K^T`."""
  filtered, log_likelihood = [], jnp.zeros_like(mean[0])
  m, P = mean, covariance
  for t in range(y.shape[0]):
    F_t, Q_t, H_t, R_t = (x[t] if x.ndim == 3 else x for x in (F, Q, H, R))
    m, P = F_t @ m, F_t @ P @ F_t.T + Q_t
    if observed is None or observed[t]:
      S = H_t @ P @ H_t.T + R_t
      K, error = P @ H_t.T @ jnp.linalg.inv(S), y[t] - H_t @ m
      m, P = m + K @ error, P - K @ S @ K.T
      log_likelihood -= 0.5 * (
        error @ jnp.linalg.inv(S) @ error
        + jnp.linalg.slogdet(2 * jnp.pi * S)[1]
      )
    filtered.append((m, P))
  means, covariances = zip(*filtered, strict=True)
  return Gaussian(jnp.stack(means), jnp.stack(covariances)), log_likelihood


def kalman_smoother(y, F, Q, H, R, mean, covariance, *, observed=None):
  """`G = P F^T P'^-1; m + G (m_next - m'); P + G (P_next - P') G^T`."""
  filtered, log_likelihood = kalman_filter(
    y, F, Q, H, R, mean, covariance, observed=observed
  )
  m, P = filtered.mean[-1], filtered.covariance[-1]
  smoothed = [(m, P)]
  for t in reversed(range(y.shape[0] - 1)):
    F_t, Q_t = (x[t + 1] if x.ndim == 3 else x for x in (F, Q))
    m_t, P_t = filtered.mean[t], filtered.covariance[t]
    ahead = F_t @ P_t @ F_t.T + Q_t
    G = P_t @ F_t.T @ jnp.linalg.inv(ahead)
    m, P = m_t + G @ (m - F_t @ m_t), P_t + G @ (P - ahead) @ G.T
    smoothed.append((m, P))
  means, covariances = zip(*reversed(smoothed), strict=True)
  return Gaussian(jnp.stack(means), jnp.stack(covariances)), log_likelihood
