"""Norms. All compute in float32 and return the dtype asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["LayerNorm", "RMSNorm", "l2_normalize"]


def l2_normalize(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Normalises: x / sqrt(sum(x^2) + epsilon) over the last axis.

  The epsilon is inside the root: outside of it, or without it, the gradient
  at x = 0 is infinite, and models whose keys pass near zero diverge.

  Args:
    x: [..., K].
    epsilon: What is added to the sum of squares.

  Returns:
    [..., K], in float32 or wider.
  """
  x = _widen(x)
  return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + epsilon)


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + epsilon) * scale over the last axis.

  Zhang & Sennrich 2019, arXiv:1910.07467. Applied to [B, L, H, V] it norms
  each head on its own with one scale [V] for all heads. With `groups` the
  last axis is cut into that many parts, each normed on its own.

  Attributes:
    epsilon: What is added to the mean of squares.
    groups: Into how many parts the last axis is cut.
    dtype: Of the result.
    param_dtype: Of `scale`.
  """

  epsilon: float = 1e-6
  groups: int = 1
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to [..., D]."""
    width = x.shape[-1]
    if self.groups < 1 or width % self.groups:
      raise ValueError(
        f"RMSNorm: groups must divide the width {width}, got {self.groups}"
      )
    scale = self.param(
      "scale", nn.initializers.ones, (width,), self.param_dtype
    )
    parts = _widen(x).reshape(
      (*x.shape[:-1], self.groups, width // self.groups)
    )
    mean = jnp.mean(parts * parts, -1, keepdims=True)
    normed = (parts * jax.lax.rsqrt(mean + self.epsilon)).reshape(x.shape)
    return (normed * _beside(scale, normed)).astype(self.dtype)


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the last axis.

  Ba et al. 2016, arXiv:1607.06450.

  Attributes:
    epsilon: What is added to the variance.
    dtype: Of the result.
    param_dtype: Of `scale` and `bias`.
  """

  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to [..., D]."""
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    x = _widen(x)
    x = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(x * x, -1, keepdims=True)
    normed = x * jax.lax.rsqrt(variance + self.epsilon)
    return (normed * _beside(scale, x) + _beside(bias, x)).astype(self.dtype)


def _widen(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _beside(parameter: jax.Array, x: jax.Array) -> jax.Array:
  """A [D] parameter with the rank and dtype of x."""
  return jnp.expand_dims(parameter.astype(x.dtype), range(x.ndim - 1))
