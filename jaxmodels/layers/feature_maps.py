"""Feature maps that have variables: learned ones, and random ones.

The maps without variables are in `jaxmodels.ops.feature_maps`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, wide
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.feature_maps import positive_random, random_directions

__all__ = ["Hedgehog", "RandomFeatures"]


@by_letters("B L H F", x="B L H K", kernel="H K F")
def _per_head(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """W_h x for every head: x [B, L, H, K], kernel [H, K, F]."""
  return jnp.einsum("blhk,hkf->blhf", x, kernel)


class Hedgehog(nn.Module):
  """softmax([W_h x, -W_h x]) over the channels, one W_h per head.

  Zhang et al. 2024, "The Hedgehog & the Porcupine", arXiv:2402.04347: trained
  to mimic softmax attention, its weights are as spiky and as monotonic in
  q^T k. The initial W_h is the identity, or its first F columns. Use one module
  for queries and another for keys. Departure: no bias.

  Attributes:
    features: F, K by default; the map has 2 F channels.
    dtype: The dtype of the result; the softmax is computed in float32 or wider.
    param_dtype: The dtype of the parameters.
  """

  features: int | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, L, H, K] to [B, L, H, 2 F]."""
    check_fields(self, "features")
    checks.shape("Hedgehog", "x", x, (None,) * 4, "[B, L, H, K]")
    heads, width = x.shape[2:]

    def eye(key, shape, dtype):
      return jnp.broadcast_to(jnp.eye(shape[1], shape[2], dtype=dtype), shape)

    shape = (heads, width, self.features or width)
    kernel = self.param("kernel", eye, shape, self.param_dtype)
    y = _per_head(x.astype(self.dtype), kernel.astype(self.dtype))
    y = y.astype(wide(self.dtype))
    return nn.softmax(jnp.concatenate([y, -y], -1)).astype(self.dtype)


class RandomFeatures(nn.Module):
  """The positive random features of `positive_random`, with fixed directions.

  The directions [F, K] are drawn once, with the key of the parameters, and are
  no parameters: they are the variable "directions" of the collection
  "random_features", so no optimiser changes them. Queries and keys must use the
  same module.

  Attributes:
    features: F, by default 4 K.
    kind: See `jaxmodels.ops.feature_maps.random_directions`.
  """

  features: int | None = None
  kind: str = "orthogonal"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., K] to [..., F]."""
    check_fields(self, "features")
    width = x.shape[-1]
    directions = self.variable(
      "random_features",
      "directions",
      lambda: random_directions(
        self.make_rng("params"), self.features or 4 * width, width, self.kind
      ),
    )
    return positive_random(x, directions.value)
