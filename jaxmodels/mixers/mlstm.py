"""The mLSTM: linear attention with exponential gates and a normaliser."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
)
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import normalized_linear_attention
from jaxmodels.ops.normalized import EMPTY, Normalized

__all__ = ["MLSTM"]


class MLSTM(Mixer):
  """Linear attention with exponential gates, divided by its normaliser.

  Per head, with x_t the input, S_t [K, V] the state and z_t [K] the normaliser:

    q_t, k_t, v_t = W_q x_t / sqrt(K), W_k x_t, W_v x_t
    i_t = exp(cap(W_i x_t + b_i)),  f_t = sigmoid(cap(W_f x_t + b_f))
    S_t = f_t S_{t-1} + i_t k_t v_t^T,  z_t = f_t z_{t-1} + i_t k_t
    h_t = S_t^T q_t / max(|z_t . q_t|, 1)
    y_t = W_o (sigmoid(W_g x_t) * concat_heads(LayerNorm(h_t)))

  with cap(x) = c tanh(x / c). The cell is that of Beck et al. 2024, "xLSTM:
  Extended Long Short-Term Memory", arXiv:2405.04517. The layer around it is
  that of xLSTM 7B (Beck et al. 2025, arXiv:2503.13427). It has no convolution
  and no up-projection: in a stack it takes turns with a gated MLP. The paper
  scales k in place of q, which is the same h. As in the published code, W_i and
  W_f are initially 0, b_i is -10, and b_f goes from 3 to 6 over the heads.
  Departures: the published code adds 1e-6 to the denominator of h; the norm has
  a bias; LeCun initialisation.

  The other fields are those of `Mixer`. The state is the `Normalized` of
  `normalized_linear_attention`.

  Attributes:
    heads: H.
    key_width: K, by default D / (2 H).
    value_width: V, by default D / H.
    gate_cap: c, or None for gates without a cap.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate_cap: float | None = 15.0

  def mix(
    self, x: jax.Array, state: Normalized | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Normalized]:
    """The equation above."""
    key_width, value_width = self._widths()
    start, stop = 3.0, 6.0
    open_gates = jnp.linspace(start, stop, self.heads)
    h, last = self.run(
      normalized_linear_attention,
      self.heads_of("query", x, self.heads, key_width) * key_width**-0.5,
      self.heads_of("key", x, self.heads, key_width),
      self.heads_of("value", x, self.heads, value_width),
      self._gate("input_gate", x, jnp.full_like(open_gates, -10.0)),
      nn.log_sigmoid(self._gate("forget_gate", x, open_gates)),
      state=state,
      segment_ids=segment_ids,
    )
    h = self.new_norm(kind=LayerNorm, groups=self.heads)(merge_heads(h))
    gate = nn.sigmoid(self.dense("output_gate", h.shape[-1])(x))
    return self.project_out(gate * h), last

  def init_state(self, batch_size: int) -> Any:
    """The empty state: zeros, and the lowest m."""
    state = super().init_state(batch_size)
    return state._replace(m=jnp.full_like(state.m, EMPTY))

  @nn.nowrap
  def _gate(self, name: str, x: jax.Array, bias: jax.Array) -> jax.Array:
    """The logits [B, L, H] of a gate, with its initial bias."""
    logits = self.dense(name, self.heads, dtype=self.wide, scale=0.0)(x)

    def init(key, shape, dtype):
      del key, shape
      return bias.astype(dtype)

    bias = self.param(f"{name}_bias", init, bias.shape, self.param_dtype)
    logits = logits + bias.astype(self.wide)[None, None]
    cap = self.gate_cap
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def _widths(self) -> tuple[int, int]:
    """K and V, after a check of all fields."""
    check_fields(self, "heads", "key_width", "value_width")
    if self.gate_cap is not None:
      check_positive(self, "gate_cap")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    if self.key_width:
      return self.key_width, value_width
    return divide(self, "heads", self.width // 2, "D / 2"), value_width
