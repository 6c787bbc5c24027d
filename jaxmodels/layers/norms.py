"""Norms, computed in float32 or wider."""

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["LayerNorm", "RMSNorm", "l2_normalize"]


def l2_normalize(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Normalises: x / sqrt(sum(x^2) + epsilon) over the last axis.

  The epsilon is inside the root. With it outside, or without it, the gradient
  at x = 0 is infinite, and models whose keys come near zero diverge.

  Args:
    x: [..., K].
    epsilon: Added to the sum of squares.

  Returns:
    [..., K], in float32 or wider.
  """
  x = _widen(x)
  return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + epsilon)


class RMSNorm(nn.Module):
  """x / sqrt(mean(x^2) + epsilon) * (offset + scale) over the last axis.

  Zhang & Sennrich 2019, arXiv:1910.07467. On heads [B, L, H, V] it normalises
  each head on its own, with one scale [V] for all heads. With `groups`, it
  splits the last axis in that many parts and normalises each on its own.

  Attributes:
    epsilon: Added to the mean of squares.
    offset: Added to `scale`, whose initial value is 1 - offset. Gemma stores
      scale - 1: offset 1 (Gemma Team 2024, arXiv:2403.08295).
    groups: The number of parts of the last axis.
    use_scale: Whether there is a learned scale; otherwise the factor is 1.
    use_bias: Whether a learned bias is added.
    dtype: The dtype of the result.
    param_dtype: The dtype of `scale` and `bias`.
  """

  epsilon: float = 1e-6
  groups: int = 1
  offset: float = 0.0
  use_scale: bool = True
  use_bias: bool = False
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises [..., D]."""
    parts = _parts(self, x)
    y = _over_root_mean_square(parts, self.epsilon).reshape(x.shape)
    if self.use_scale:
      y = y * _scale(self, y)
    return _with_bias(self, y).astype(self.dtype)


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(variance + epsilon) * (offset + scale) + bias.

  Over the last axis; Ba et al. 2016, arXiv:1607.06450. With `groups`, it splits
  the last axis in that many parts and normalises each on its own, with a scale
  and a bias per channel. On merged heads [B, L, H V] with H groups, it is the
  group norm per head of RetNet and RWKV (Wu & He 2018, arXiv:1803.08494).

  Attributes:
    epsilon: Added to the variance.
    groups: The number of parts of the last axis.
    offset: Added to `scale`, whose initial value is 1 - offset.
    use_bias: Whether there is a bias.
    dtype: The dtype of the result.
    param_dtype: The dtype of `scale` and `bias`.
  """

  epsilon: float = 1e-6
  groups: int = 1
  offset: float = 0.0
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises [..., D]."""
    parts = _parts(self, x)
    parts = parts - jnp.mean(parts, -1, keepdims=True)
    y = _over_root_mean_square(parts, self.epsilon).reshape(x.shape)
    return _with_bias(self, y * _scale(self, y)).astype(self.dtype)


def _parts(norm: RMSNorm | LayerNorm, x: jax.Array) -> jax.Array:
  """Splits [..., D] to [..., groups, D / groups], in float32 or wider."""
  width, groups = x.shape[-1], norm.groups
  if groups < 1 or width % groups:
    raise ValueError(
      f"{type(norm).__name__}: groups must divide the width {width}, "
      f"got {groups}"
    )
  return _widen(x).reshape((*x.shape[:-1], groups, width // groups))


def _over_root_mean_square(x: jax.Array, epsilon: float) -> jax.Array:
  mean = jnp.mean(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(mean + epsilon)


def _scale(norm: RMSNorm | LayerNorm, x: jax.Array) -> jax.Array:
  """The factor offset + scale, with the rank and dtype of x [..., D]."""
  init = nn.initializers.constant(1 - norm.offset)
  scale = norm.param("scale", init, x.shape[-1:], norm.param_dtype)
  scale = _beside(scale, x)
  return scale + norm.offset if norm.offset else scale


def _with_bias(norm: RMSNorm | LayerNorm, x: jax.Array) -> jax.Array:
  """Adds the bias to x [..., D], if the norm has one; it is initially 0."""
  if not norm.use_bias:
    return x
  init = nn.initializers.zeros
  return x + _beside(
    norm.param("bias", init, x.shape[-1:], norm.param_dtype), x
  )


def _widen(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _beside(parameter: jax.Array, x: jax.Array) -> jax.Array:
  """A parameter [D] with the rank and dtype of x."""
  return jnp.expand_dims(parameter.astype(x.dtype), range(x.ndim - 1))
