"""Kalman filter and smoother as associative scans.

The linear Gaussian state-space model

    x_t = F_t x_{t-1} + w_t,  w_t ~ N(0, Q_t),    t = 1, ..., L
    y_t = H_t x_t + r_t,      r_t ~ N(0, R_t)

from `x_0 ~ N(mean, covariance)`. Filtering is a product of elements that
compose associatively, so a scan of depth log L gives what the sequential
filter does (Särkkä & García-Fernández 2021, arXiv:1905.13002), and Gaussian
processes with a state-space form are regressed in O(L).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg

from jaxmodels.ops import checks
from jaxmodels.ops.dtypes import wide

_METHODS = ("auto", "associative", "recurrent")


class Gaussian(NamedTuple):
  """Means [L, N] and covariances [L, N, N] of every state."""

  mean: jax.Array
  covariance: jax.Array


class _Model(NamedTuple):
  """The model with an axis of tokens: [L, ...] each."""

  y: jax.Array
  F: jax.Array
  Q: jax.Array
  H: jax.Array
  R: jax.Array
  observed: jax.Array


class _Filter(NamedTuple):
  """An element of the filter: a span as seen from the state before it.

  `p(x_t | x_s, y_{s+1..t}) = N(A x_s + b, C)`, and what the observations say
  of `x_s`: `p(y_{s+1..t} | x_s)` is Gaussian in x_s with information eta, J.
  """

  A: jax.Array
  b: jax.Array
  C: jax.Array
  eta: jax.Array
  J: jax.Array


class _Smoother(NamedTuple):
  """An element of the smoother: `x_t | x_s, y ~ N(E x_s + g, L)`, t < s."""

  E: jax.Array
  g: jax.Array
  L: jax.Array


def kalman_filter(
  y: jax.Array,
  F: jax.Array,
  Q: jax.Array,
  H: jax.Array,
  R: jax.Array,
  mean: jax.Array,
  covariance: jax.Array,
  *,
  observed: jax.Array | None = None,
  method: str = "auto",
) -> tuple[Gaussian, jax.Array]:
  """Distribution of every state given the observations up to it.

  One sequence; `jax.vmap` it for a batch. Give float64 where the noise is
  small against the prior: covariances are squares, and lose twice the digits.

  Args:
    y: [L, M] observations.
    F: [N, N] or [L, N, N], from the state before token t to that of token t.
    Q: [N, N] or [L, N, N], covariance of the step's noise.
    H: [M, N] or [L, M, N], what is observed.
    R: [M, M] or [L, M, M], covariance of the observation's noise.
    mean: [N] of the state x_0 before the first step.
    covariance: [N, N] of the same.
    observed: [L] booleans; y where it is False is not looked at. All by
      default.
    method: "associative", a scan of depth log L; "recurrent", token after
      token; "auto" is "recurrent" on CPU and "associative" elsewhere.

  Returns:
    the filtered `Gaussian`, in float32 or wider, and the log likelihood [] of
    all observations.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  op = "kalman_filter"
  with jax.named_scope(op):
    model, start = _prepare(
      op, y, F, Q, H, R, mean, covariance, observed, method
    )
    filtered, log_likelihood = _filter(model, start, _choose(method))
  checks.finite(op, filtered=filtered, log_likelihood=log_likelihood)
  return filtered, log_likelihood


def kalman_smoother(
  y: jax.Array,
  F: jax.Array,
  Q: jax.Array,
  H: jax.Array,
  R: jax.Array,
  mean: jax.Array,
  covariance: jax.Array,
  *,
  observed: jax.Array | None = None,
  method: str = "auto",
) -> tuple[Gaussian, jax.Array]:
  """Distribution of every state given all observations.

  As `kalman_filter`, which it runs first, then back from the last token
  (Rauch, Tung & Striebel 1965). The predicted covariances `F P F^T + Q` must
  be positive definite.

  Args:
    y: as for `kalman_filter`, and so are the others.
    F: see `kalman_filter`.
    Q: see `kalman_filter`.
    H: see `kalman_filter`.
    R: see `kalman_filter`.
    mean: see `kalman_filter`.
    covariance: see `kalman_filter`.
    observed: see `kalman_filter`.
    method: see `kalman_filter`.

  Returns:
    the smoothed `Gaussian`, in float32 or wider, and the log likelihood [] of
    all observations.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  op = "kalman_smoother"
  with jax.named_scope(op):
    model, start = _prepare(
      op, y, F, Q, H, R, mean, covariance, observed, method
    )
    form = _choose(method)
    filtered, log_likelihood = _filter(model, start, form)
    smoothed = _smooth(model, filtered, form)
  checks.finite(op, smoothed=smoothed, log_likelihood=log_likelihood)
  return smoothed, log_likelihood


# The filter.


def _filter(model, start, form):
  """Filtered states and the log likelihood."""
  if form == "recurrent":
    filtered = _filter_one_by_one(model, start)
  else:
    elements = jax.vmap(_filter_element)(model)
    first = jax.tree.map(lambda x: x[0], model)
    known = _update(first, *_predict(first, start))
    zero = jnp.zeros_like(known.covariance)
    opening = _Filter(
      zero,
      known.mean,
      known.covariance,
      jnp.zeros_like(known.mean),
      zero,
    )
    elements = jax.tree.map(lambda x, x0: x.at[0].set(x0), elements, opening)
    spans = lax.associative_scan(jax.vmap(_compose_filters), elements)
    filtered = Gaussian(spans.b, spans.C)
  before = jax.tree.map(
    lambda x0, x: jnp.concatenate([x0[None], x[:-1]]), start, filtered
  )
  return filtered, jnp.sum(jax.vmap(_log_likelihood)(model, before))


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


def _log_likelihood(token, before):
  """Of one observation, given those before; 0 where there is none."""
  mean, covariance = _predict(token, before)
  factor = jnp.linalg.cholesky(_innovation(token, covariance))
  white = linalg.solve_triangular(factor, _residual(token, mean), lower=True)
  log_determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
  constant = token.y.shape[0] * jnp.log(2 * jnp.pi).astype(white.dtype)
  value = -0.5 * (jnp.sum(white**2) + log_determinant + constant)
  return jnp.where(token.observed, value, 0)


def _filter_element(token) -> _Filter:
  """The element of one token."""
  gain = _gain(token, token.Q)
  rest = jnp.eye(token.Q.shape[0], dtype=token.Q.dtype) - gain @ token.H
  seen = token.H @ token.F
  weighed = _solve(_innovation(token, token.Q), seen)  # S^-1 H F
  weighed = jnp.where(token.observed, weighed, 0)
  y = jnp.where(token.observed, token.y, 0)
  return _Filter(
    A=rest @ token.F,
    b=gain @ y,
    C=_symmetric(rest @ token.Q @ rest.T + gain @ token.R @ gain.T),
    eta=weighed.T @ y,
    J=_symmetric(seen.T @ weighed),
  )


def _compose_filters(earlier: _Filter, later: _Filter) -> _Filter:
  """The element of two spans one after the other."""
  unit = jnp.eye(earlier.C.shape[0], dtype=earlier.C.dtype)
  # Both (I + C J)^-1 and its transpose, by one factorisation each.
  forward = jnp.linalg.solve((unit + earlier.C @ later.J).T, later.A.T).T
  backward = jnp.linalg.solve((unit + later.J @ earlier.C).T, earlier.A).T
  moved = earlier.b + earlier.C @ later.eta
  return _Filter(
    A=forward @ earlier.A,
    b=forward @ moved + later.b,
    C=_symmetric(forward @ earlier.C @ later.A.T + later.C),
    eta=backward @ (later.eta - later.J @ earlier.b) + earlier.eta,
    J=_symmetric(backward @ later.J @ earlier.A + earlier.J),
  )


# The smoother.


def _smooth(model, filtered, form):
  """Smoothed states: elements composed from the last token back."""
  following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), model)
  elements = jax.vmap(_smoother_element)(following, filtered)
  # Nothing follows the last token: it is what the filter says.
  elements = _Smoother(
    elements.E.at[-1].set(0),
    elements.g.at[-1].set(filtered.mean[-1]),
    elements.L.at[-1].set(filtered.covariance[-1]),
  )
  if form == "associative":
    spans = lax.associative_scan(
      jax.vmap(_compose_smoothers), elements, reverse=True
    )
    return Gaussian(spans.g, spans.L)

  def body(later, element):
    later = _compose_smoothers(later, element)
    return later, Gaussian(later.g, later.L)

  zero = jax.tree.map(lambda x: jnp.zeros_like(x[-1]), elements)
  return lax.scan(body, zero, elements, reverse=True)[1]


def _smoother_element(following, state) -> _Smoother:
  """The element of one token, from the step that follows it."""
  _, predicted = _predict(following, state)
  E = _solve(predicted, following.F @ state.covariance).T
  rest = jnp.eye(E.shape[0], dtype=E.dtype) - E @ following.F
  return _Smoother(
    E,
    state.mean - E @ (following.F @ state.mean),
    _symmetric(rest @ state.covariance @ rest.T + E @ following.Q @ E.T),
  )


def _compose_smoothers(later: _Smoother, earlier: _Smoother) -> _Smoother:
  """The element of a token and those that follow it."""
  return _Smoother(
    earlier.E @ later.E,
    earlier.E @ later.g + earlier.g,
    _symmetric(earlier.E @ later.L @ earlier.E.T + earlier.L),
  )


# Linear algebra and arguments.


def _solve(positive, x):
  """`positive^-1 x` by Cholesky."""
  return linalg.cho_solve((jnp.linalg.cholesky(positive), True), x)


def _symmetric(x):
  """Rounding breaks symmetry, and a broken one grows."""
  return (x + x.T) / 2


def _choose(method):
  if method != "auto":
    return method
  return "recurrent" if jax.default_backend() == "cpu" else "associative"


def _prepare(op, y, F, Q, H, R, mean, covariance, observed, method):
  """Checks everything; the model with one of each a token, and the start."""
  checks.require(
    method in _METHODS,
    f"{op}: method must be one of {', '.join(_METHODS)}, got {method!r}",
  )
  checks.shape(op, "mean", mean, (None,), "[N]")
  checks.shape(op, "y", y, (None, None), "[L, M]")
  (length, seen), width = y.shape, mean.shape[0]
  checks.require(length > 0, f"{op}: y must be [L > 0, M], got L = 0")
  checks.shape(op, "covariance", covariance, (width, width), "[N, N]")
  given = {
    "F": (F, (width, width), "[N, N]"),
    "Q": (Q, (width, width), "[N, N]"),
    "H": (H, (seen, width), "[M, N]"),
    "R": (R, (seen, seen), "[M, M]"),
  }
  arrays = {"y": y, "mean": mean, "covariance": covariance}
  for name, (x, shape, letters) in given.items():
    wanted = (length, *shape) if x.ndim == 3 else shape
    letters = f"{letters} or [L, {letters[1:]}"
    checks.shape(op, name, x, wanted, letters)
    arrays[name] = x
  for name, x in arrays.items():
    checks.dtype(op, name, x, jnp.floating, "real floating point")
  if observed is None:
    observed = jnp.ones(length, bool)
  checks.shape(op, "observed", observed, (length,), "[L]")
  checks.dtype(op, "observed", observed, jnp.bool_, "booleans")
  checks.finite(op, **{n: x for n, x in arrays.items() if n != "y"})
  dtype = wide(*arrays.values())

  def each(x, shape):  # One a token.
    return jnp.broadcast_to(x.astype(dtype), (length, *shape))

  F, Q, H, R = (each(x, shape) for x, shape, _ in given.values())
  start = Gaussian(mean.astype(dtype), covariance.astype(dtype))
  return _Model(y.astype(dtype), F, Q, H, R, observed), start
