"""Channel mixers without a state: they map each token on its own.

They are called like a mixer; their state is ().
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_input, projection
from jaxmodels.ops.engine import checks

__all__ = ["ACTIVATIONS", "MLP", "ChannelMixer", "GatedMLP", "activation_of"]


def _relu2(x: jax.Array) -> jax.Array:
  """The square of ReLU (So et al. 2021, "Primer", arXiv:2109.08668)."""
  return jnp.square(nn.relu(x))


# "gelu" has the error function, and "gelu_tanh" its approximation by a tanh.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "silu": nn.silu,
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_tanh": nn.gelu,
  "relu": nn.relu,
  "relu2": _relu2,
  "sigmoid": nn.sigmoid,
  "log_sigmoid": nn.log_sigmoid,
}


def activation_of(
  layer: Any, field: str = "activation"
) -> Callable[[jax.Array], jax.Array]:
  """The function that a field of a layer names."""
  name = getattr(layer, field)
  checks.require(
    name in ACTIVATIONS,
    f"{type(layer).__name__}: {field} must be one of "
    f"{', '.join(ACTIVATIONS)}, got {name!r}",
  )
  return ACTIVATIONS[name]


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
  def _output(self, x: jax.Array, use_bias: bool) -> jax.Array:
    """The output projection of x [B, L, hidden], to [B, L, D]."""
    scale = self.output_scale
    return projection(
      self, self.width, "output", scale=scale, use_bias=use_bias
    )(x)

  @nn.nowrap
  def gated_width(self) -> int:
    """`hidden`, by default 8/3 D, rounded up to a multiple of 8."""
    return self.hidden or -(-self.width * 8 // 24) * 8


class GatedMLP(ChannelMixer):
  """SwiGLU: W_o (SiLU(W_g x) * W_v x), by default without biases.

  Shazeer 2020, arXiv:2002.05202. The default hidden width is 8/3 of the width,
  rounded up to a multiple of 8. It then has about as many parameters as a plain
  MLP with a hidden width of four times the width. With another activation it is
  GEGLU ("gelu" or "gelu_tanh") or ReGLU ("relu") of the same paper.

  Attributes:
    width: D.
    hidden: Hidden width, or None for the default.
    output_scale: Factor on the initial weights of the output projection.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
    activation: A name of `ACTIVATIONS`.
    use_bias: Whether the three projections have biases.
    gate_scale: Factor on W_g x (and its bias) before the activation.
  """

  activation: str = "silu"
  use_bias: bool = False
  gate_scale: float = 1.0

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    activation, hidden = activation_of(self), self.gated_width()
    gate = projection(self, hidden, "gate", use_bias=self.use_bias)(x)
    if self.gate_scale != 1:
      gate = gate * self.gate_scale
    value = projection(self, hidden, "value", use_bias=self.use_bias)(x)
    return self._output(activation(gate) * value, self.use_bias)


class MLP(ChannelMixer):
  """W_o GELU(W_i x + b_i) + b_o (Vaswani et al. 2017, arXiv:1706.03762).

  GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415), by default in its tanh form,
  replaces the paper's ReLU.

  Attributes:
    width: D.
    hidden: Hidden width, 4 D by default.
    output_scale: Factor on the initial weights of the output projection.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
    activation: A name of `ACTIVATIONS`.
    use_bias: Whether the two projections have biases.
  """

  activation: str = "gelu_tanh"
  use_bias: bool = True

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    activation, hidden = activation_of(self), self.hidden or 4 * self.width
    x = projection(self, hidden, "input", use_bias=self.use_bias)(x)
    return self._output(activation(x), self.use_bias)
