"""Parts of state-space models: discretisation and projections."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["complex_inputs", "real_outputs", "zero_order_hold"]


def complex_inputs(u: jax.Array, weights: jax.Array) -> jax.Array:
  """`B u` of real inputs and complex weights.

  Products of real matrices take half the work of complex ones, and
  `jax.checkpoint` cannot save the result of a complex product.

  Args:
    u: [B, L, D] real.
    weights: [N, D] complex.

  Returns:
    [B, L, N] complex.
  """
  return jax.lax.complex(
    jnp.einsum("bld,nd->bln", u, weights.real),
    jnp.einsum("bld,nd->bln", u, weights.imag),
  )


def real_outputs(h: jax.Array, weights: jax.Array) -> jax.Array:
  """`Re(C h)` of complex states and weights, as products of real matrices.

  Args:
    h: [B, L, N] complex.
    weights: [D, N] complex.

  Returns:
    [B, L, D] real.
  """
  y = jnp.einsum("bln,dn->bld", h.real, weights.real)
  return y - jnp.einsum("bln,dn->bld", h.imag, weights.imag)


def zero_order_hold(
  log_rate: jax.Array, frequency: jax.Array, log_step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Discretises `h' = lambda h + u`, `lambda = -exp(log_rate) + i frequency`.

  The results and their gradients are finite for any finite arguments. The rate
  or the step may overflow by itself although their product does not.

  Args:
    log_rate: [...].
    frequency: [...].
    log_step: [...].

  Returns:
    `a = exp(lambda step)` and `(a - 1) / lambda`, complex [...].
  """
  info = np.finfo(log_step.dtype)
  largest = float(np.log(info.max)) - 2
  step = jnp.exp(jnp.minimum(log_step, largest))
  decay = jnp.exp(jnp.minimum(log_rate + log_step, 40))
  # The phase is 0 if the state has decayed to 0, and limited where it has no
  # correct digits.
  turns = float(4 / info.eps)
  phase = jnp.clip(frequency * step, -turns, turns)
  phase = jnp.where(decay < np.exp(8), phase, 0)
  exponent = jax.lax.complex(-decay, phase)
  # (a - 1) / lambda is computed as step (a - 1) / exponent. If the exponent is
  # large, it is divided by lambda instead; if it is small, a series is used.
  size = jnp.abs(exponent)
  small, large = size < 1e-3, size > 1e3
  near = jnp.where(small, exponent, 0)
  series = 1 + near / 2 * (1 + near / 3 * (1 + near / 4))
  other = jnp.where(small | large, 1, exponent)
  # expm1, because a - 1 is small if the step is small.
  by_step = step.astype(exponent.dtype) * jnp.where(
    small, series, jnp.expm1(other) / other
  )
  # Divide by the larger part of lambda first: its square may overflow.
  log_rate = jnp.clip(log_rate, -largest, largest)
  scale = jnp.maximum(jnp.exp(log_rate), jnp.abs(frequency))
  scale = jax.lax.stop_gradient(jnp.where(large, scale, 1))
  unit = jax.lax.complex(
    -jnp.exp(jnp.where(large, log_rate - jnp.log(scale), 0)), frequency / scale
  )
  by_rate = jnp.expm1(exponent) / jnp.where(large, unit, 1)
  by_rate = by_rate / scale.astype(unit.dtype)
  return jnp.exp(exponent), jnp.where(large, by_rate, by_step)
