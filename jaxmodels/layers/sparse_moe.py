"""Sparse mixture of experts: each token uses a few of many gated MLPs."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields
from jaxmodels.layers.mlp import ChannelMixer
from jaxmodels.layers.routing import route
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = ["SparseMoE"]


class SparseMoE(ChannelMixer):
  """The weighted sum of the top_k of E gated MLPs (experts).

    g = top_k of softmax(W_r x), divided by their sum, 0 elsewhere
    y = sum_e g_e W_o^e (SiLU(W_g^e x) * W_v^e x)

  Shazeer et al. 2017, arXiv:1701.06538, with the normalised weights of Mixtral
  (Jiang et al. 2024, arXiv:2401.04088) and the load-balance loss of Switch
  Transformers, which the layer sows: `layers.routing.route`. No token is
  dropped: the choices of all tokens are sorted by expert, and
  `jax.lax.ragged_dot` multiplies each expert's rows by its own weights (Gale et
  al. 2022, "MegaBlocks", arXiv:2211.15841). On a CPU, XLA multiplies all rows
  by the weights of all experts instead.

  Attributes:
    width: D.
    hidden: Hidden width of each expert, or None for that of `GatedMLP`.
    output_scale: Factor on the initial weights of the output projections.
    dtype: The dtype of the computation; the router is float32 or wider.
    param_dtype: The dtype of the parameters.
    experts: E.
    top_k: The number of experts per token.
    balance_loss: Factor on the load-balance loss.
  """

  experts: int = 8
  top_k: int = 2
  balance_loss: float = 0.01

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    check_fields(self, "experts", "top_k")
    hidden = self._gated_width()
    routes = route(self, x, self.experts, self.top_k, self.balance_loss)

    def kernel(name, inputs, outputs, scale=1.0):
      init = nn.initializers.variance_scaling(
        scale**2, "fan_in", "truncated_normal", batch_axis=(0,)
      )
      shape = (self.experts, inputs, outputs)
      return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    return run_by_letters(
      "sparse_moe",
      lambda arrays: _mix(**arrays),
      {
        "x": jnp.asarray(x, self.dtype),
        "chosen": routes.chosen,
        "weights": routes.weights.astype(self.dtype),
        "gate": kernel("gate", self.width, hidden),
        "value": kernel("value", self.width, hidden),
        "output": kernel("output", hidden, self.width, self.output_scale),
      },
      {
        "x": "B L D",
        "chosen": "B L K",
        "weights": "B L K",
        "gate": "E D F",
        "value": "E D F",
        "output": "E F D",
      },
      "B L D",
    )


def _mix(x, chosen, weights, gate, value, output):
  """Sorts the choices by expert, maps them, and adds them up by token."""
  top_k = chosen.shape[-1]
  tokens, expert = x.reshape(-1, x.shape[-1]), chosen.reshape(-1)
  order = jnp.argsort(expert, stable=True)
  rows = tokens[order // top_k]
  sizes = jnp.bincount(expert, length=gate.shape[0])

  def product(rows, kernel):
    return jax.lax.ragged_dot(rows, kernel, sizes.astype(jnp.int32))

  hidden = nn.silu(product(rows, gate)) * product(rows, value)
  mapped = product(hidden, output) * weights.reshape(-1)[order][:, None]
  y = jnp.zeros_like(tokens).at[order // top_k].add(mapped)
  return y.reshape(x.shape)
