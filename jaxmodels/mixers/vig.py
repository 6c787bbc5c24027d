"""ViG: gated linear attention for images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  split_heads,
)
from jaxmodels.layers.gates import low_rank, sigmoid_decay
from jaxmodels.mixers.cross_scan import GridMixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks

__all__ = ["ViG"]


class ViG(GridMixer):
  """Gated linear attention in both directions, mixed with 2-D neighbours.

  Per head, with a depthwise convolution in 2-D over the image x:

    u_t = SiLU(conv(x)_t)
    q_t, k_t, v_t = W_q u_t / sqrt(K), W_k u_t, W_v u_t
    a_t, b_t = sigmoid(W_2 W_1 u_t + c)^(1 / temperature)      [2 K]
    S_t = diag(a_t) S_{t-1} + k_t v_t^T
    R_t = diag(b_t) R_{t+1} + k_t v_t^T
    o_t = RMSNorm((S_t + R_t)^T q_t / 2)
    g_t = sigmoid(W_g u_t + d)
    y_t = W_o concat_heads(g_t * o_t + (1 - g_t) * RMSNorm(u_t))

  Both directions share q, k and v; only the gates a and b are their own. They
  run as one batch in one call of the op. g mixes the global context of the
  recurrences with the 2-D neighbourhood u. The places are read row by row.

  Liao et al. 2024, "ViG: Linear-complexity Visual Sequence Learning with Gated
  Linear Attention", arXiv:2405.18425, with the details of the authors' code.
  Departures: a bias of the convolution, as in `DepthwiseConvolution`; LeCun
  initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    columns: As in `GridMixer`.
    rows: As in `GridMixer`.
    heads: H.
    key_width: K, by default D / (2 H).
    gate_rank: The rank of W_2 W_1.
    temperature: A high temperature starts decays near 1.
    kernel_width: The kernel width of the convolution, odd.
  """

  heads: int = 2
  key_width: int | None = None
  gate_rank: int = 16
  temperature: float = 16.0
  kernel_width: int = 3

  @nn.nowrap
  def mix_images(
    self, x: jax.Array, segments: jax.Array | None, layer: Any, depth: int
  ) -> jax.Array:
    """The equation above."""
    del layer, depth
    check_fields(self, "heads", "key_width", "gate_rank")
    check_positive(self, "temperature")
    value_width = divide(self, "heads", self.width, "D")
    checks.require(
      self.key_width is not None or value_width % 2 == 0,
      f"ViG: D / heads must be even where key_width is None, got {value_width}",
    )
    key_width = self.key_width or value_width // 2
    convolution = self.new_depthwise(
      "convolution", x.shape[1], self.kernel_width
    )
    u = nn.silu(convolution(x, segments))
    q = self.heads_of("query", u, self.heads, key_width) * key_width**-0.5
    k = self.heads_of("key", u, self.heads, key_width)
    v = self.heads_of("value", u, self.heads, value_width)
    logits = low_rank(
      self, u, self.gate_rank, 2 * self.heads * key_width, use_bias=True
    )
    log_decay = sigmoid_decay(logits, 2 * self.heads, self.temperature)
    y = self._both_ways(q, k, v, log_decay, segments)
    y = self.new_norm("norm")(y)
    local = self.new_norm("local_norm")(split_heads(u, self.heads))
    gate = nn.sigmoid(
      self.heads_of("mix_gate", u, self.heads, value_width, use_bias=True)
    )
    return self.project_out(gate * y + (1 - gate) * local)

  @nn.nowrap
  def _both_ways(
    self,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    segments: jax.Array | None,
  ) -> jax.Array:
    """The mean of both recurrences [B, L, H, V], in one call of the op."""

    def both(x: jax.Array) -> jax.Array:
      return jnp.stack([x, jnp.flip(x, 1)])

    ahead, back = jnp.split(log_decay, 2, 2)
    op: Any = linear_attention  # It checks the name of the method itself.
    y, _ = op(
      both(q),
      both(k),
      both(v),
      jnp.stack([ahead, jnp.flip(back, 1)]),
      segment_ids=None if segments is None else both(segments),
      method=self.method,
      chunk_size=self.chunk_size,
    )
    return (y[0] + jnp.flip(y[1], 1)) / 2
