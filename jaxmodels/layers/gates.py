"""Decays of mixers, finite with their gradients whatever the parameters are."""

import jax
import jax.numpy as jnp

__all__ = ["log_decay"]


def log_decay(log_rate: jax.Array, x: jax.Array) -> jax.Array:
  """`-exp(log_rate) softplus(x)`, the log decay of gated linear RNNs.

  Computed as `-exp(log_rate + log softplus(x))`: one factor may be beyond
  the largest number, and the other below the smallest, where the product is an
  ordinary number. The exponent stops where the largest number is; the decay is
  0 long before.

  Args:
    log_rate: the logarithm of the rate, often called `A_log`.
    x: of the shape of `log_rate`, or broadcast to it.

  Returns:
    at most 0, and finite.
  """
  exponent = log_rate + _log_softplus(x)
  largest = jnp.log(jnp.finfo(exponent.dtype).max) - 1
  return -jnp.exp(jnp.minimum(exponent, largest.astype(exponent.dtype)))


@jax.custom_jvp
def _log_softplus(x: jax.Array) -> jax.Array:
  """`log(log(1 + exp(x)))`, close to x where exp(x) is close to 0."""
  low, few = _low(x)
  return jnp.where(low, x - few / 2, jnp.log(_softplus(x, low)))


@_log_softplus.defjvp
def _log_softplus_jvp(primals, tangents):
  """The slope is between 0 and 1, which `1 / softplus` is not on the way."""
  (x,), (dx,) = primals, tangents
  low, few = _low(x)
  slope = jnp.where(low, 1 - few / 2, jax.nn.sigmoid(x) / _softplus(x, low))
  return _log_softplus(x), slope * dx


def _low(x):
  """Where exp(x) is lost beside 1, and exp(x) there."""
  low = x < -20
  return low, jnp.exp(jnp.where(low, x, 0))


def _softplus(x, low):
  """`log(1 + exp(x))`, and not 0 where that would be lost."""
  return jax.nn.softplus(jnp.where(low, 0, x))
