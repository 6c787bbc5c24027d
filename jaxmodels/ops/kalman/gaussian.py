"""Filtering and smoothing of linear Gaussian models, span by span.

This is the engine of `jaxmodels.ops.kalman`. An element maps the Gaussian
before a span of tokens to the Gaussian after it. Elements compose: forwards in
the filter, and backwards from the last token in the smoother.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import halo
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.recurrence import Summary
from jaxmodels.ops.kalman import scan
from jaxmodels.ops.kalman.small_matrices import (
  congruence,
  eye_like,
  log_determinant,
  matmul,
  matvec,
  solve,
  solve_positive,
  symmetric,
  transpose,
)


@serializable
class Gaussian(NamedTuple):
  """Means [L, N] and covariances [L, N, N] of every state."""

  mean: jax.Array
  covariance: jax.Array


class Model(NamedTuple):
  """The model, each array with an axis of tokens: [L, ...]."""

  y: jax.Array
  F: jax.Array
  Q: jax.Array
  H: jax.Array
  R: jax.Array
  observed: jax.Array


class Information(NamedTuple):
  """How the state after a span depends on the one before it.

  `p(x_t | x_s, y_{s+1..t})` has the mean `A x_s + ...`. The likelihood
  `p(y_{s+1..t} | x_s)` of the observations is a Gaussian in `x_s` with the
  information eta, J.
  """

  A: jax.Array
  eta: jax.Array
  J: jax.Array


# A span of the filter is `Summary(Information, Gaussian)`. The update is the
# distribution of x_t if `x_s = 0` with certainty. A span of the smoother is
# `Summary(E, Gaussian)`: `x_t | x_s, y ~ N(E x_s + mean, covariance)`, t < s.


def filter_states(
  model: Model, start: Gaussian, method: str, axis_name: str | None
) -> tuple[Gaussian, Gaussian]:
  """Every state given the observations up to it, and the state before each.

  Args:
    model: [L, ...].
    start: distribution of x_0.
    method: see `scan.run`.
    axis_name: mesh axis over which L is sharded, or None.
  """
  none, F = jnp.zeros(()), jnp.eye(model.F.shape[1])
  R = jnp.eye(model.R.shape[1])
  nothing = Model(none, F, none, none, R, observed=none)
  forward = scan.ElementScan(
    _filter_element, _compose_filters, _filter_through, _filter, nothing
  )
  start, filtered = scan.run(forward, model, start, method, axis_name)
  before = jax.tree.map(
    lambda x0, x: jnp.concatenate([x0[None], x[:-1]]), start, filtered
  )
  return filtered, before


def smooth_states(
  model: Model, filtered: Gaussian, method: str, axis_name: str | None
) -> Gaussian:
  """Every state given all observations, from the filtered states."""
  following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), model)
  at_end = jnp.arange(model.y.shape[0]) == model.y.shape[0] - 1
  if axis_name is not None:
    at_end &= halo.rank(axis_name, reverse=True) == 0
    following = jax.tree.map(
      lambda x, first: x.at[-1].set(
        halo.from_previous(first[0], x[-1], axis_name, reverse=True)
      ),
      following,
      model,
    )
  elements = scan.along(
    _smoother_element(*scan.across((following, filtered, at_end)))
  )
  # No token follows the last one, so the state that enters there has no effect.
  after = jax.tree.map(lambda x: jnp.zeros_like(x[-1]), elements.update)
  none = jnp.zeros(())
  backward = scan.ElementScan(
    lambda element: element,
    _compose_smoothers,
    _smooth_through,
    _smooth_through,
    Summary(jnp.eye(model.F.shape[1]), Gaussian(none, none)),
  )
  _, smoothed = scan.run(backward, elements, after, method, axis_name, True)
  return smoothed


def log_likelihoods(model: Model, before: Gaussian) -> jax.Array:
  """Log likelihood [L] per observation given those before; 0 without one."""
  return _log_likelihood(*scan.across((model, before)))


# The functions below take one token, or many in the last axis.


# The filter.


def _filter(token, state) -> Gaussian:
  """The filter of Kalman (1960); Joseph's form keeps covariances positive."""
  mean, covariance = _predict(token, state)
  S = _innovation(token, covariance)
  gain = transpose(solve_positive(S, matmul(token.H, covariance)))
  gain = _observed(token, gain)
  rest = eye_like(covariance) - matmul(gain, token.H)
  return Gaussian(
    mean + matvec(gain, _residual(token, mean)),
    congruence(rest, covariance) + congruence(gain, token.R),
  )


def _predict(token, state) -> Gaussian:
  """The state of a token before its observation."""
  mean, covariance = state
  return Gaussian(
    matvec(token.F, mean), congruence(token.F, covariance) + symmetric(token.Q)
  )


def _innovation(token, covariance):
  """The covariance of the observation."""
  return congruence(token.H, covariance) + symmetric(token.R)


def _residual(token, mean):
  return _observed(token, token.y) - matvec(token.H, mean)


def _observed(token, x):
  """Sets x to zero at tokens without an observation."""
  observed = jnp.expand_dims(
    token.observed, range(x.ndim - token.observed.ndim)
  )
  return jnp.where(observed, x, 0)


def _log_likelihood(token, before):
  mean, covariance = _predict(token, before)
  S, error = _innovation(token, covariance), _residual(token, mean)
  distance = jnp.sum(error * solve_positive(S, error[:, None])[:, 0], 0)
  constant = token.y.shape[0] * np.log(2 * np.pi)
  value = -0.5 * (distance + log_determinant(S) + constant)
  return _observed(token, value)


def _filter_element(token) -> Summary:
  """The element of one token."""
  seen = matmul(token.H, token.F)
  both = jnp.concatenate([matmul(token.H, token.Q), seen], axis=1)
  both = _observed(token, solve_positive(_innovation(token, token.Q), both))
  gain, weighed = jnp.split(both, 2, axis=1)  # Q H^T S^-1 and S^-1 H F
  gain = transpose(gain)
  rest = eye_like(token.Q) - matmul(gain, token.H)
  y = _observed(token, token.y)
  return Summary(
    Information(
      matmul(rest, token.F),
      matvec(transpose(weighed), y),
      symmetric(matmul(transpose(seen), weighed)),
    ),
    Gaussian(
      matvec(gain, y), congruence(rest, token.Q) + congruence(gain, token.R)
    ),
  )


def _compose_filters(earlier: Summary, later: Summary) -> Summary:
  """The element of two successive spans."""
  (A, eta, J), between = earlier
  told = later.transition
  known, weighed = _given(told, between, A)
  back = transpose(weighed)
  return Summary(
    Information(
      matmul(told.A, weighed),
      matvec(back, told.eta - matvec(told.J, between.mean)) + eta,
      symmetric(matmul(back, matmul(told.J, A))) + J,
    ),
    _move(told.A, later.update, known),
  )


def _filter_through(summary: Summary, state: Gaussian) -> Gaussian:
  """The distribution after a span, from the distribution before it."""
  known, _ = _given(summary.transition, state, state.covariance[:, :0])
  return _move(summary.transition.A, summary.update, known)


def _given(told: Information, state: Gaussian, x):
  """The state given the observations of a later span, and `(I + C J)^-1 x`."""
  mean, C = state
  mean = (mean + matvec(C, told.eta))[:, None]
  solved = solve(
    eye_like(C) + matmul(C, told.J), jnp.concatenate([mean, C, x], axis=1)
  )
  mean, C, x = jnp.split(solved, [1, 1 + C.shape[0]], axis=1)
  return Gaussian(mean[:, 0], C), x


# The smoother.


def _smoother_element(following, state, at_end) -> Summary:
  """The element of one token, from the step after it, if there is one."""
  mean, covariance = state
  predicted = _predict(following, state)
  E = matmul(following.F, covariance)
  E = transpose(solve_positive(predicted.covariance, E))
  rest = eye_like(E) - matmul(E, following.F)
  element = Summary(
    E,
    Gaussian(
      mean - matvec(E, predicted.mean),
      congruence(rest, covariance) + congruence(E, following.Q),
    ),
  )
  end = Summary(jnp.zeros_like(E), state)
  return jax.tree.map(
    lambda x, y: jnp.where(jnp.broadcast_to(at_end, x.shape), x, y),
    end,
    element,
  )


def _compose_smoothers(later: Summary, earlier: Summary) -> Summary:
  """The element of a token and those that follow it."""
  return Summary(
    matmul(earlier.transition, later.transition),
    _smooth_through(earlier, later.update),
  )


def _smooth_through(summary: Summary, later: Gaussian) -> Gaussian:
  """A smoothed state, from the state after it."""
  return _move(summary.transition, summary.update, later)


def _move(A, update, state) -> Gaussian:
  """`A x + w`, for a state x and w ~ update."""
  return Gaussian(
    matvec(A, state.mean) + update.mean,
    congruence(A, state.covariance) + update.covariance,
  )
