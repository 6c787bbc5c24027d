"""Decays and write strengths of mixers, finite for all finite parameters.

Functions that take a `layer` make parameters in its scope, in its
`param_dtype`. They compute in float32 or wider for any `dtype`, because a decay
that is rounded to bfloat16 changes how long a state remembers. A head decay is
[B, L, H], and a key decay is [B, L, H, K]; both are logarithms, at most 0.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.layers.common import projection, split_heads, step_bias, wide

__all__ = [
  "beta",
  "bounded_decay",
  "fixed_decay",
  "log_decay",
  "low_rank",
  "negative_decay",
  "sigmoid_decay",
  "softplus_decay",
]


def fixed_decay(heads: int) -> np.ndarray:
  """The head decays of RetNet, log(1 - 2^(-5 - h)) for h = 0, 1, ...: [H].

  Sun et al. 2023, arXiv:2307.08621.
  """
  return np.log1p(-(2.0 ** (-5 - np.arange(heads))))


def sigmoid_decay(
  logits: jax.Array, heads: int, temperature: float = 1.0
) -> jax.Array:
  """log(sigmoid(logits)^(1 / temperature)), [B, L, H * K] to [B, L, H, K].

  The key decay of GLA (Yang et al. 2023, arXiv:2312.06635). With a high
  temperature, initial decays are near 1.
  """
  return split_heads(nn.log_sigmoid(logits) / temperature, heads)


def softplus_decay(
  layer: nn.Module,
  logits: jax.Array,
  heads: int,
  rates: tuple[float, float],
  per_key: bool = False,
  bound: float | None = None,
  limits: tuple[float, float] = (0.0, math.inf),
) -> tuple[jax.Array, jax.Array]:
  """-exp(A_log) softplus(logits + dt_bias), the decay of Mamba-2.

  Dao & Gu 2024, arXiv:2405.21060; Gated DeltaNet and KDA use it too. Initially
  exp(A_log), one per head, is uniform in `rates`, and softplus(dt_bias) is
  log-uniform in [0.001, 0.1]. With a bound, the same parameters make
  `bounded_decay(A_log, logits + dt_bias, bound)`.

  Args:
    layer: The module that gets the parameters "dt_bias" [F] and "A_log" [H].
    logits: [B, L, F] with F = H, or F = H K for a key decay.
    heads: H.
    rates: The range of the initial exp(A_log).
    per_key: Whether the decay is a key decay.
    bound: The lowest log decay, below 0, or None.
    limits: The least and the largest softplus(logits + dt_bias).

  Returns:
    The log decay [B, L, H] or [B, L, H, K], and logits + dt_bias [B, L, F],
    clipped so that their softplus is within the limits.
  """
  dtype = logits.dtype

  def log_of_uniform(key, shape, dtype):
    return jnp.log(jax.random.uniform(key, shape, dtype, *rates))

  init, features = step_bias(1e-3, 1e-1), logits.shape[-1:]
  bias = layer.param("dt_bias", init, features, layer.param_dtype)
  rate = layer.param("A_log", log_of_uniform, (heads,), layer.param_dtype)
  logits, rate = logits + bias.astype(dtype)[None, None], rate.astype(dtype)
  if limits != (0, math.inf):
    logits = jnp.clip(logits, *(_inverse_softplus(x) for x in limits))
  rate, x = rate[None, None], logits
  if per_key:
    rate, x = rate[..., None], split_heads(logits, heads)
  if bound is not None:
    return bounded_decay(rate, x, bound), logits
  return log_decay(rate, x), logits


def _inverse_softplus(x: float) -> float:
  """The number whose softplus is x, for x of at least 0."""
  return -math.inf if x == 0 else x + math.log(-math.expm1(-x))


def negative_decay(log_decay: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The decay 2 a - 1 in [-1, 1] from log a: the log of its size, and its sign.

  It lets a state change its sign, which parity and other finite automata need
  (Grazzi et al. 2024, arXiv:2411.12537). The size is at least the rounding
  error of 1, so that the logarithm and its gradient are finite.

  Args:
    log_decay: log a, at most 0, of any shape.

  Returns:
    log |2 a - 1| and the sign, 1 or -1, both in the shape of log_decay.
  """
  a = jnp.exp(log_decay)
  negative = 2 * a < 1
  # |2 a - 1| - 1, without the cancellation of 2 a - 1 - 1 where a is near 1.
  change = jnp.where(negative, -2 * a, 2 * jnp.expm1(log_decay))
  smallest = float(jnp.finfo(a.dtype).epsneg)
  # Where the size is at its limit, the gradient must not be 0.
  change += lax.stop_gradient(jnp.maximum(change, smallest - 1) - change)
  return jnp.log1p(change), jnp.where(negative, -1, 1).astype(a.dtype)


def low_rank(
  layer: nn.Module,
  x: jax.Array,
  rank: int,
  features: int,
  names: tuple[str, str] = ("decay_down", "decay_up"),
  use_bias: bool = False,
  activation: Callable[[jax.Array], jax.Array] | None = None,
  scales: tuple[float, float] = (1.0, 1.0),
) -> jax.Array:
  """W_2 W_1 x, or with a bias W_2 W_1 x + b: [B, L, D] to [B, L, features].

  Args:
    layer: The module that gets the two projections.
    x: [B, L, D].
    rank: The rank of W_2 W_1.
    features: The width of the result.
    names: The names of W_1 and W_2.
    use_bias: Whether W_2 has a bias, initially zero.
    activation: Applied to W_1 x.
    scales: Factors on the initial W_1 and W_2; 0 is zeros.
  """
  (down, up), (first, second) = names, scales
  dtype = wide(layer.dtype)
  x = projection(layer, rank, down, scale=first, dtype=dtype)(x)
  if activation is not None:
    x = activation(x)
  return projection(
    layer, features, up, scale=second, use_bias=use_bias, dtype=dtype
  )(x)


def beta(
  layer: nn.Module,
  x: jax.Array,
  heads: int,
  largest: float = 1.0,
  bias: float | None = None,
) -> jax.Array:
  """The write strength `largest * sigmoid(W x + b)` of a delta rule.

  Args:
    layer: The module that gets the projection "beta".
    x: [B, L, D].
    heads: H.
    largest: 1, or 2 for state transitions with negative eigenvalues (Grazzi
      et al. 2024, arXiv:2411.12537).
    bias: The initial b of all heads; None for no b.

  Returns:
    [B, L, H].
  """
  dtype = wide(layer.dtype)
  logits = projection(layer, heads, "beta", dtype=dtype)(x)
  if bias is not None:
    init = nn.initializers.constant(bias)
    b = layer.param("beta_bias", init, (heads,), layer.param_dtype)
    logits = logits + b.astype(dtype)[None, None]
  return largest * nn.sigmoid(logits)


def log_decay(log_rate: jax.Array, x: jax.Array) -> jax.Array:
  """`-exp(log_rate) softplus(x)`, the log decay of gated linear RNNs.

  Computed as `-exp(log_rate + log softplus(x))`, because one factor may
  overflow and the other underflow although their product does neither. The
  exponent is limited so that the result is finite; the decay, exp of the
  result, is 0 long before that.

  Args:
    log_rate: the logarithm of the rate, often called `A_log`.
    x: of the shape of `log_rate`, or a shape that broadcasts to it.

  Returns:
    the log decay, at most 0 and finite.
  """
  exponent = log_rate + _log_softplus(x)
  largest = jnp.log(jnp.finfo(exponent.dtype).max) - 1
  return -jnp.exp(jnp.minimum(exponent, largest.astype(exponent.dtype)))


def bounded_decay(log_rate: jax.Array, x: jax.Array, bound: float) -> jax.Array:
  """`bound * sigmoid(exp(log_rate) x)`, a log decay that is never below bound.

  The gate of later layers of the KDA family (`lower_bound` in the published
  code of KDA, arXiv:2510.26692). A bound of -5 keeps at least 0.7 % of the
  state per token.

  Args:
    log_rate: the logarithm of the rate.
    x: of the shape of `log_rate`, or a shape that broadcasts to it.
    bound: the lowest log decay, below 0.

  Returns:
    the log decay, between bound and 0.
  """
  # The limit keeps the product finite, and is far beyond where it saturates.
  return bound * jax.nn.sigmoid(jnp.exp(jnp.minimum(log_rate, 40.0)) * x)


@jax.custom_jvp
def _log_softplus(x: jax.Array) -> jax.Array:
  """`log(log(1 + exp(x)))`, which is close to x if exp(x) is close to 0."""
  low, few = _low(x)
  return jnp.where(low, x - few / 2, jnp.log(_softplus(x, low)))


@_log_softplus.defjvp
def _log_softplus_jvp(primals, tangents):
  """The slope is in [0, 1], but computing it by `1 / softplus` may overflow."""
  (x,), (dx,) = primals, tangents
  low, few = _low(x)
  slope = jnp.where(low, 1 - few / 2, jax.nn.sigmoid(x) / _softplus(x, low))
  return _log_softplus(x), slope * dx


def _low(x):
  """Where 1 + exp(x) rounds to 1, and exp(x) there."""
  low = x < -20
  return low, jnp.exp(jnp.where(low, x, 0))


def _softplus(x, low):
  """`log(1 + exp(x))`, and log(2) where `low`, so that it is never 0."""
  return jax.nn.softplus(jnp.where(low, 0, x))
