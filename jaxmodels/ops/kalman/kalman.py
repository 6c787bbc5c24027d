"""Kalman filter and smoother, in parallel over the sequence.

The linear Gaussian state-space model

    x_t = F_t x_{t-1} + w_t,  w_t ~ N(0, Q_t),    t = 1, ..., L
    y_t = H_t x_t + r_t,      r_t ~ N(0, R_t)

with `x_0 ~ N(mean, covariance)`. Filtering is a product of elements that
compose associatively. So scans of depth log L, or over chunks in parallel, give
the results of the sequential filter (Särkkä & García-Fernández 2021,
arXiv:1905.13002). Regression with a Gaussian process that has a state-space
form takes O(L).
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.checks import is_open, require_length
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.kalman.gaussian import (
  Gaussian,
  Model,
  filter_states,
  log_likelihoods,
  smooth_states,
)

_METHODS = ("auto", "recurrent", "chunk_parallel", "associative")
_MODEL = {
  "F": "N N | L N N",
  "Q": "N N | L N N",
  "H": "M N | L M N",
  "R": "M M | L M M",
}
# The results are not sharded.
_placed = by_letters(
  "",
  mean="N",
  y="L M",
  covariance="N N",
  observed="L",
  **_MODEL,
)


@_placed
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
  axis_name: str | None = None,
) -> tuple[Gaussian, jax.Array]:
  """Distribution of every state given the observations up to it.

  Cost: about 14 N^3 + 12 N^2 M + 8 N M^2 + 4 M^3 flops per token with
  "recurrent"; 30 N^3 + 20 N^2 M more with the parallel methods.

  Takes one sequence; use `jax.vmap` for a batch. Use float64 if the noise is
  small compared with the prior: covariances are squares and lose twice the
  digits.

  Args:
    y: [L, M] observations.
    F: [N, N] or [L, N, N], from the state before token t to that of token t.
    Q: [N, N] or [L, N, N], covariance of the process noise.
    H: [M, N] or [L, M, N], the observation matrix.
    R: [M, M] or [L, M, M], covariance of the observation noise.
    mean: [N], mean of the state x_0 before the first step.
    covariance: [N, N], covariance of x_0.
    observed: [L] booleans; y is ignored where it is False. By default all
      are observed.
    method: "recurrent", token by token; "chunk_parallel", all chunks in
      parallel in about 3 sqrt(L) steps; "associative", a scan of depth log L,
      whose program takes up to minutes to compile. "auto" is "recurrent" on CPU
      and "chunk_parallel" elsewhere.
    axis_name: mesh axis over which L is sharded, inside `shard_map`. All arrays
      with an axis L have equal shards. Needs one all-gather of elements for any
      length.

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
    form = _choose(op, method, model.y.shape[0])
    filtered, before = filter_states(model, start, form, axis_name)
    log_likelihood = _total(log_likelihoods(model, before), axis_name)
  checks.finite(op, filtered=filtered, log_likelihood=log_likelihood)
  return filtered, log_likelihood


@_placed
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
  axis_name: str | None = None,
) -> tuple[Gaussian, jax.Array]:
  """Distribution of every state given all observations.

  Runs `kalman_filter`, then goes back from the last token (Rauch, Tung &
  Striebel 1965). The predicted covariances `F P F^T + Q` must
  be positive definite.

  Cost: 26 N^3 flops per token more than `kalman_filter`, or 32 N^3 more with
  the parallel methods.

  Args:
    y: see `kalman_filter`.
    F: see `kalman_filter`.
    Q: see `kalman_filter`.
    H: see `kalman_filter`.
    R: see `kalman_filter`.
    mean: see `kalman_filter`.
    covariance: see `kalman_filter`.
    observed: see `kalman_filter`.
    method: see `kalman_filter`.
    axis_name: see `kalman_filter`.

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
    form = _choose(op, method, model.y.shape[0])
    filtered, before = filter_states(model, start, form, axis_name)
    smoothed = smooth_states(model, filtered, form, axis_name)
    log_likelihood = _total(log_likelihoods(model, before), axis_name)
  checks.finite(op, smoothed=smoothed, log_likelihood=log_likelihood)
  return smoothed, log_likelihood


def _total(values, axis_name):
  """The sum over all tokens of all shards."""
  total = jnp.sum(values)
  return total if axis_name is None else lax.psum(total, axis_name)


def _choose(op, method, length):
  if method == "auto":
    return "recurrent" if is_open(length) else choose("kalman").value
  if method != "recurrent":
    require_length(op, length, f'method "{method}"', '"auto" or "recurrent"')
  return method


def _prepare(op, y, F, Q, H, R, mean, covariance, observed, method):
  """Checks the arguments; returns the model per token, and the start."""
  checks.method(op, method, _METHODS)
  y, F, Q, H, R, mean, covariance, observed = arrays(
    op,
    y=y,
    F=F,
    Q=Q,
    H=H,
    R=R,
    mean=mean,
    covariance=covariance,
    observed=observed,
  )
  noise = {"F": F, "Q": Q, "H": H, "R": R}
  sizes = checks.arguments(
    op,
    mean=(mean, "N"),
    y=(y, "L M"),
    covariance=(covariance, "N N"),
    observed=(observed, "L"),
    **{name: (x, _MODEL[name]) for name, x in noise.items()},
  )
  length, seen, width = (sizes[letter] for letter in "LMN")
  checks.require(length > 0, f"{op}: y must be [L > 0, M], got L = 0")
  floats = {"y": y, "mean": mean, "covariance": covariance, **noise}
  checks.floating(op, **floats)
  if observed is None:
    observed = jnp.ones(length, bool)
  checks.dtype(op, "observed", observed, jnp.bool_, "booleans")
  checks.finite(op, **{n: x for n, x in floats.items() if n != "y"})
  dtype = wide(*floats.values())

  def each(x, shape):  # One per token.
    return jnp.broadcast_to(x.astype(dtype), (length, *shape))

  F, Q = (each(x, (width, width)) for x in (F, Q))
  H, R = each(H, (seen, width)), each(R, (seen, seen))
  start = Gaussian(mean.astype(dtype), covariance.astype(dtype))
  return Model(y.astype(dtype), F, Q, H, R, observed), start
