"""The short causal convolution that many mixers apply before their op."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields
from jaxmodels.ops import causal_convolution

__all__ = ["ShortConvolution"]


class ShortConvolution(nn.Module):
  """activation(causal_convolution(x, kernel) + bias), channel by channel.

  Initial parameters are uniform in +-1/sqrt(kernel width), the default in the
  published code of Mamba and DeltaNet.

  Attributes:
    kernel_width: W, the number of tokens that an output reads.
    use_bias: Whether there is a bias.
    activation: Applied to the result.
    reverse: Whether to run from the last token to the first.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.
    dtype: The dtype of the result; products are summed in float32.
    param_dtype: The dtype of the parameters.
  """

  kernel_width: int = 4
  use_bias: bool = False
  activation: Callable[[jax.Array], jax.Array] = nn.silu
  reverse: bool = False
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: jax.Array | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Convolves x along L.

    Args:
      x: [B, L, D].
      state: [B, W - 1, D], the inputs before the first token; None is zeros.
      segment_ids: [B, L] or None.

    Returns:
      y [B, L, D], and the state [B, W - 1, D].
    """
    check_fields(self, "kernel_width")

    def init(key, shape, dtype):
      bound = self.kernel_width**-0.5
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    shape = (self.kernel_width, x.shape[-1])
    kernel = self.param("kernel", init, shape, self.param_dtype)
    y, state = causal_convolution(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      state,
      segment_ids=segment_ids,
      reverse=self.reverse,
      axis_name=self.axis_name,
    )
    if self.use_bias:
      bias = self.param("bias", init, shape[1:], self.param_dtype)
      y = y + bias.astype(self.dtype)[None, None]
    return self.activation(y), state
