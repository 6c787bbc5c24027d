"""Bilinear MLP: a gated MLP without a nonlinearity."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import projection
from jaxmodels.layers.mlp import ChannelMixer

__all__ = ["BilinearMLP", "interaction"]


class BilinearMLP(ChannelMixer):
  """W_o (W_g x * W_v x), without biases and without a nonlinearity.

  Shazeer 2020, arXiv:2002.05202. Each output is a quadratic form of x, so its
  weights can be read as eigenvectors: `interaction`. The default hidden width
  is that of `GatedMLP`.

  Attributes:
    width: D.
    hidden: Hidden width, or None for 8/3 D, rounded up to a multiple of 8.
    output_scale: Factor on the initial weights of the output projection.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    hidden = self.gated_width()
    gate = projection(self, hidden, "gate")(x)
    value = projection(self, hidden, "value")(x)
    output = projection(self, self.width, "output", scale=self.output_scale)
    return output(gate * value)


def interaction(params: Mapping[str, Any], direction: jax.Array) -> jax.Array:
  """The symmetric matrix B with `direction . y = x^T B x`.

  Each eigenvector is a direction of the input. Its eigenvalue is the factor of
  the square of x along that direction (Pearce et al. 2024, "Bilinear MLPs
  enable weight-based mechanistic interpretability", arXiv:2410.08417).

  Args:
    params: Those of a `BilinearMLP`.
    direction: [D], in the space of outputs.

  Returns:
    [D, D].
  """
  kernels = {name: params[name]["kernel"] for name in params}
  hidden = kernels["output"] @ direction
  matrix = (kernels["gate"] * hidden[None]) @ kernels["value"].T
  return jnp.asarray((matrix + matrix.T) / 2)
