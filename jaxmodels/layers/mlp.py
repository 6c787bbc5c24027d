"""Channel mixers without a state: they map each token on its own.

They are called like a mixer; their state is ().
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_input, projection

__all__ = ["MLP", "ChannelMixer", "GatedMLP"]


class ChannelMixer(nn.Module):
  """The fields and the call; a subclass defines `_map` of a token."""

  width: int
  hidden: int | None = None
  output_scale: float = 1.0
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: tuple[()] | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[()]]:
    """Maps [B, L, D] to [B, L, D]; the state is (), and ids have no effect."""
    check_fields(self, "hidden")
    check_input(self, x, segment_ids)
    return self._map(x), ()

  def init_state(self, batch_size: int) -> tuple[()]:
    """The empty state, ()."""
    del batch_size
    return ()

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    """Maps [B, L, D] to [B, L, D], after x and the fields are checked."""
    raise NotImplementedError

  @nn.nowrap
  def _gated_width(self) -> int:
    """`hidden`, by default 8/3 D, rounded up to a multiple of 8."""
    return self.hidden or -(-self.width * 8 // 24) * 8


class GatedMLP(ChannelMixer):
  """SwiGLU: W_o (SiLU(W_g x) * W_v x), without biases.

  Shazeer 2020, arXiv:2002.05202. The default hidden width is 8/3 of the width,
  rounded up to a multiple of 8. It then has about as many parameters as a plain
  MLP with a hidden width of four times the width.

  Attributes:
    width: D.
    hidden: Hidden width, or None for the default.
    output_scale: Factor on the initial weights of the output projection.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    hidden = self._gated_width()
    gate = nn.silu(projection(self, hidden, "gate")(x))
    value = projection(self, hidden, "value")(x)
    output = projection(self, self.width, "output", scale=self.output_scale)
    return output(gate * value)


class MLP(ChannelMixer):
  """W_o GELU(W_i x + b_i) + b_o (Vaswani et al. 2017, arXiv:1706.03762).

  GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415) replaces the paper's ReLU.

  Attributes:
    width: D.
    hidden: Hidden width, 4 D by default.
    output_scale: Factor on the initial weights of the output projection.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    hidden = self.hidden or 4 * self.width
    x = nn.gelu(projection(self, hidden, "input", use_bias=True)(x))
    output = projection(
      self, self.width, "output", scale=self.output_scale, use_bias=True
    )
    return output(x)
