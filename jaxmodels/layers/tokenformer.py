"""TokenFormer: attention to parameter tokens in place of an MLP."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, wide
from jaxmodels.layers.mlp import ChannelMixer
from jaxmodels.layers.products import dense_product
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = ["TokenFormer", "grow"]


class TokenFormer(ChannelMixer):
  """Attention of each token to n pairs of a key and a value, the parameters.

    a = K x                            [n], K of the parameter "key" [n, D]
    y = V^T GELU(a / |a| sqrt(n_0))    V of the parameter "value" [n, D]

  Wang et al. 2024, "TokenFormer: Rethinking Transformer Scaling with Tokenized
  Model Parameters", arXiv:2410.23168: "Pattention", in place of the MLP. The
  norm of the scores replaces the sum of the softmax.

  A trained model can get more pairs, see `grow`. New keys are zero, so that
  their scores are zero, and the grown model equals the old one. This needs the
  factor sqrt(n_0) to stay as it was: `first_hidden`.

  Attributes:
    width: D.
    hidden: n, 4 D by default.
    output_scale: Factor on the initial values.
    dtype: The dtype of the computation; scores are float32 or wider.
    param_dtype: The dtype of the parameters.
    first_hidden: n_0, the number of pairs before the model grew; by default n.
  """

  first_hidden: int | None = None

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    check_fields(self, "first_hidden")
    hidden = self.hidden or 4 * self.width
    shape = hidden, self.width
    scaled = nn.initializers.variance_scaling
    # Each key has D entries, and each output sums n values.
    keys = scaled(1.0, "fan_out", "truncated_normal")
    values = scaled(self.output_scale**2, "fan_in", "truncated_normal")
    parameters = {
      "key": self.param("key", keys, shape, self.param_dtype),
      "value": self.param("value", values, shape, self.param_dtype),
    }
    root = (self.first_hidden or hidden) ** 0.5
    return run_by_letters(
      "tokenformer",
      lambda arrays: _attend(**arrays, root=root, dtype=self.dtype),
      {"x": jnp.asarray(x, self.dtype), **parameters},
      {"x": "... D", "key": "F D", "value": "F D"},
      "... D",
    )


def _attend(x, key, value, *, root, dtype):
  scores = dense_product(x, key.astype(dtype).T).astype(wide(dtype))
  square = jnp.sum(scores * scores, -1, keepdims=True)
  # The scores of x = 0 are 0.
  scores = nn.gelu(scores * jax.lax.rsqrt(square + 1e-12) * root)
  return dense_product(scores.astype(dtype), value.astype(dtype))


def grow(
  params: Mapping[str, Any], hidden: int, key: jax.Array
) -> dict[str, jax.Array]:
  """Adds pairs of a key and a value, without a change of the outputs.

  Use the result with `layer.clone(hidden=hidden, first_hidden=n_0)`. New keys
  are zero. New values are drawn like the old ones, because otherwise the new
  keys would get no gradient.

  Args:
    params: Those of a `TokenFormer`, or of a stack of scanned ones.
    hidden: The new number of pairs.
    key: For the new values.

  Returns:
    The new parameters.

  Raises:
    ValueError: There are already more pairs.
  """
  old_key, old_value = params["key"], params["value"]
  *lead, before, width = old_key.shape
  if hidden < before:
    raise ValueError(
      f"grow: hidden must be at least {before}, the number of pairs that there "
      f"are, got {hidden}"
    )
  shape = (*lead, hidden - before, width)
  deviation = jnp.std(old_value)
  drawn = deviation * jax.random.normal(key, shape, old_value.dtype)
  zeros = jnp.zeros(shape, old_key.dtype)
  return {
    "key": jnp.concatenate([old_key, zeros], -2),
    "value": jnp.concatenate([old_value, drawn], -2),
  }
