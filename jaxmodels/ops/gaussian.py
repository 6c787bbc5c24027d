"""Filtering and smoothing of linear Gaussian models, span by span.

What `jaxmodels.ops.kalman` runs. A span of tokens acts on the Gaussian that
enters it as one element, and elements compose: forwards in the filter, from
the last token back in the smoother.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg

from jaxmodels.ops import halo
from jaxmodels.ops.recurrence import Segment
from jaxmodels.ops.sequence_parallel import exchange


class Gaussian(NamedTuple):
  """Means [L, N] and covariances [L, N, N] of every state."""

  mean: jax.Array
  covariance: jax.Array


class Model(NamedTuple):
  """The model with an axis of tokens: [L, ...] each."""

  y: jax.Array
  F: jax.Array
  Q: jax.Array
  H: jax.Array
  R: jax.Array
  observed: jax.Array


class Information(NamedTuple):
  """How the state after a span depends on the one before it.

  `p(x_t | x_s, y_{s+1..t})` has mean `A x_s + ...`, and what the observations
  say of `x_s`, `p(y_{s+1..t} | x_s)`, is Gaussian with information eta, J.
  """

  A: jax.Array
  eta: jax.Array
  J: jax.Array


# A span of the filter is `Segment(Information, Gaussian)`, the update being
# what is known of x_t if `x_s = 0` for sure. A span of the smoother is
# `Segment(E, Gaussian)`: `x_t | x_s, y ~ N(E x_s + mean, covariance)`, t < s.


def filter_states(
  model: Model, start: Gaussian, form: str, axis_name: str | None
) -> tuple[Gaussian, Gaussian]:
  """Every state given the observations up to it, and the state before each.

  Args:
    model: [L, ...].
    start: what is known of x_0.
    form: "associative" or "recurrent".
    axis_name: mesh axis over which L is sharded, or None.
  """
  if axis_name is not None:
    whole = _fold(_compose_filters, jax.vmap(_filter_element)(model))
    start, _ = exchange(_filter_through, whole, start, axis_name, False)
  if form == "recurrent":
    filtered = _filter_one_by_one(model, start)
  else:
    filtered = _associate(
      _compose_filters,
      _filter_through,
      jax.vmap(_filter_element)(model),
      start,
    )
  before = jax.tree.map(
    lambda x0, x: jnp.concatenate([x0[None], x[:-1]]), start, filtered
  )
  return filtered, before


def smooth_states(
  model: Model, filtered: Gaussian, form: str, axis_name: str | None
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
  elements = jax.vmap(_smoother_element)(following, filtered, at_end)
  # Nothing follows the last token, so that what enters there is not looked at.
  after = jax.tree.map(lambda x: jnp.zeros_like(x[-1]), elements.update)
  if axis_name is not None:
    whole = _fold(_compose_smoothers, elements, reverse=True)
    after, _ = exchange(_smooth_through, whole, after, axis_name, True)
  if form == "associative":
    return _associate(
      _compose_smoothers, _smooth_through, elements, after, reverse=True
    )

  def body(later, element):
    state = _smooth_through(element, later)
    return state, state

  return lax.scan(body, after, elements, reverse=True)[1]


def _associate(compose, advance, elements, state, reverse=False):
  """All states from the one that enters and the prefixes of the elements."""
  spans = lax.associative_scan(jax.vmap(compose), elements, reverse=reverse)
  return jax.vmap(advance, (0, None))(spans, state)


def _fold(compose, elements, reverse=False):
  """The one element of all."""
  first, rest = (-1, slice(None, -1)) if reverse else (0, slice(1, None))

  def body(earlier, one):
    return compose(earlier, one), None

  whole, _ = lax.scan(
    body,
    jax.tree.map(lambda x: x[first], elements),
    jax.tree.map(lambda x: x[rest], elements),
    reverse=reverse,
  )
  return whole


# The filter.


def _filter_one_by_one(model, start):
  """The filter of Kalman (1960)."""

  def body(state, token):
    state = _update(token, *_predict(token, state))
    return state, state

  return lax.scan(body, start, model)[1]


def _predict(token, state):
  """Mean and covariance of a state before its observation."""
  mean = token.F @ state.mean
  return mean, _symmetric(token.F @ state.covariance @ token.F.T + token.Q)


def _update(token, mean, covariance) -> Gaussian:
  """The state given its observation; Joseph's form stays positive."""
  gain = _gain(token, covariance)
  rest = jnp.eye(mean.shape[0], dtype=mean.dtype) - gain @ token.H
  return Gaussian(
    mean + gain @ _residual(token, mean),
    _symmetric(rest @ covariance @ rest.T + gain @ token.R @ gain.T),
  )


def _gain(token, covariance):
  """Kalman's gain [N, M], zero where nothing was observed."""
  S = _innovation(token, covariance)
  gain = _solve(S, token.H @ covariance).T
  return jnp.where(token.observed, gain, 0)


def _innovation(token, covariance):
  """The covariance of the observation."""
  return _symmetric(token.H @ covariance @ token.H.T + token.R)


def _residual(token, mean):
  return jnp.where(token.observed, token.y, 0) - token.H @ mean


def log_likelihoods(model: Model, before: Gaussian) -> jax.Array:
  """Of each observation [L], given those before; 0 where there is none."""
  return jax.vmap(_log_likelihood)(model, before)


def _log_likelihood(token, before):
  mean, covariance = _predict(token, before)
  factor = jnp.linalg.cholesky(_innovation(token, covariance))
  white = linalg.solve_triangular(factor, _residual(token, mean), lower=True)
  log_determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
  constant = token.y.shape[0] * jnp.log(2 * jnp.pi).astype(white.dtype)
  value = -0.5 * (jnp.sum(white**2) + log_determinant + constant)
  return jnp.where(token.observed, value, 0)


def _filter_element(token) -> Segment:
  """The element of one token."""
  seen = token.H @ token.F
  both = jnp.concatenate([token.H @ token.Q, seen], axis=1)
  both = _solve(_innovation(token, token.Q), both)  # S^-1 H Q and S^-1 H F
  gain, weighed = jnp.split(jnp.where(token.observed, both, 0), 2, axis=1)
  gain = gain.T
  rest = jnp.eye(token.Q.shape[0], dtype=token.Q.dtype) - gain @ token.H
  y = jnp.where(token.observed, token.y, 0)
  return Segment(
    Information(rest @ token.F, weighed.T @ y, _symmetric(seen.T @ weighed)),
    Gaussian(
      gain @ y,
      _symmetric(rest @ token.Q @ rest.T + gain @ token.R @ gain.T),
    ),
  )


def _compose_filters(earlier: Segment, later: Segment) -> Segment:
  """The element of two spans one after the other."""
  (A, eta, J), (mean, C) = earlier
  unit = jnp.eye(C.shape[0], dtype=C.dtype)
  told = later.transition
  # What the later observations say of the state between, moved before it, and
  # `told.A (I + C J)^-1`: one call, see `_solve`.
  between = unit + C @ told.J
  solved = jnp.linalg.solve(
    jnp.stack([between, between.T]), jnp.stack([A, told.A.T])
  )
  backward, forward = solved[0].T, solved[1].T
  return Segment(
    Information(
      forward @ A,
      backward @ (told.eta - told.J @ mean) + eta,
      _symmetric(backward @ told.J @ A + J),
    ),
    _move(forward, later, earlier.update),
  )


def _filter_through(segment: Segment, state: Gaussian) -> Gaussian:
  """What is known after a span, from what was known before it."""
  return _move(_forward(segment, state.covariance), segment, state)


def _move(forward, segment, state) -> Gaussian:
  """The same, with `A (I + C J)^-1` at hand."""
  mean, C = state
  return Gaussian(
    forward @ (mean + C @ segment.transition.eta) + segment.update.mean,
    _symmetric(
      forward @ C @ segment.transition.A.T + segment.update.covariance
    ),
  )


def _forward(segment: Segment, covariance: jax.Array) -> jax.Array:
  """`A (I + C J)^-1`."""
  A, _, J = segment.transition
  unit = jnp.eye(A.shape[0], dtype=A.dtype)
  return jnp.linalg.solve((unit + covariance @ J).T, A.T).T


# The smoother.


def _smoother_element(following, state, at_end) -> Segment:
  """The element of one token, from the step that follows it if one does."""
  _, predicted = _predict(following, state)
  E = _solve(predicted, following.F @ state.covariance).T
  rest = jnp.eye(E.shape[0], dtype=E.dtype) - E @ following.F
  element = Segment(
    E,
    Gaussian(
      state.mean - E @ (following.F @ state.mean),
      _symmetric(rest @ state.covariance @ rest.T + E @ following.Q @ E.T),
    ),
  )
  end = Segment(jnp.zeros_like(E), state)
  return jax.tree.map(lambda x, y: jnp.where(at_end, x, y), end, element)


def _compose_smoothers(later: Segment, earlier: Segment) -> Segment:
  """The element of a token and those that follow it."""
  return Segment(
    earlier.transition @ later.transition,
    _smooth_through(earlier, later.update),
  )


def _smooth_through(segment: Segment, later: Gaussian) -> Gaussian:
  """A state from the one that follows it."""
  E, (mean, covariance) = segment
  return Gaussian(
    E @ later.mean + mean, _symmetric(E @ later.covariance @ E.T + covariance)
  )


# Linear algebra.


def _solve(positive, x):
  """`positive^-1 x` by Cholesky.

  What needs no other's result should be solved in the same call: on two cores
  XLA has waited forever for two batches of LAPACK at once, each of which held
  one of its two threads and waited for the other.
  """
  return linalg.cho_solve((jnp.linalg.cholesky(positive), True), x)


def _symmetric(x):
  """Rounding breaks symmetry, and a broken one grows."""
  return (x + x.T) / 2
