"""MesaNet: each token reads the least-squares solution of the past."""

from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxmodels import ops
from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.norms import l2_normalize
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["MesaNet", "MesaNetState"]


@serializable
class MesaNetState(NamedTuple):
  """Convolution states [B, W - 1, H K] of query and key, and `ops.Mesa`."""

  convolution_states: tuple[jax.Array, jax.Array]
  state: ops.Mesa


class MesaNet(Mixer):
  """The Mesa layer: regularised least squares over keys and values so far.

  Per head, with x_t the input, and H_t [K, K] and G_t [K, V] the state:

    q_t, k_t = l2(SiLU(conv(W_q x)_t)), l2(SiLU(conv(W_k x)_t)),  v_t = W_v x_t
    a_t, beta_t = sigmoid(w_a x_t + b_a), sigmoid(w_b x_t + b_b)
    H_t = a_t H_{t-1} + beta_t k_t k_t^T
    G_t = a_t G_{t-1} + beta_t k_t v_t^T
    y_t = W_o concat_heads(RMSNorm(G_t^T (H_t + diag(lambda))^-1 q_t))
    lambda = lower_bound + softplus(c)                         [K]

  Von Oswald et al. 2025, "MesaNet: Sequence Modeling by Locally Optimal
  Test-Time Training", arXiv:2506.05233. `steps` steps of conjugate gradients
  solve the system. lambda starts at 1. The state holds the sums for keys
  divided by sqrt(lambda), see `ops.mesa`. Departures: in the conjugate
  gradients lambda is the preconditioner; LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / H.
    value_width: V, by default D / H.
    steps: The number of steps of conjugate gradients.
    lower_bound: The smallest regularisation; above 0 and below 1.
    output_gate: Whether SiLU(W_g x_t) gates y before the output projection.
    kernel_width: W of the convolutions.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  steps: int = 30
  lower_bound: float = 0.25
  output_gate: bool = False
  kernel_width: int = 4

  def mix(
    self,
    x: jax.Array,
    state: MesaNetState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, MesaNetState]:
    """The equation above."""
    key_width, value_width = self._widths()
    before = (None, None) if state is None else state.convolution_states

    def heads(name, entering):
      y = self.dense(name, self.heads * key_width)(x)
      convolution = self.new_convolution(
        f"{name}_convolution", self.kernel_width
      )
      y, leaving = convolution(y, entering, segment_ids=segment_ids)
      return l2_normalize(split_heads(y, self.heads)), leaving

    def gate(name):
      return self.dense(name, self.heads, use_bias=True, dtype=self.wide)(x)

    root = jax.lax.rsqrt(self._regularisation(key_width))[None, None]
    q, query_state = heads("query", before[0])
    k, key_state = heads("key", before[1])
    y, last = self.run(
      self._solve,
      (q * root.astype(q.dtype)).astype(self.dtype),
      (k * root.astype(k.dtype)).astype(self.dtype),
      self.heads_of("value", x, self.heads, value_width),
      nn.sigmoid(gate("beta")),
      nn.log_sigmoid(gate("decay")),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = merge_heads(self.new_norm()(y))
    if self.output_gate:
      y = y * nn.silu(self.dense("output_gate", y.shape[-1])(x))
    return self.project_out(y), MesaNetState((query_state, key_state), last)

  @nn.nowrap
  def _solve(self, *args, **options):
    return ops.mesa(*args, steps=self.steps, **options)

  @nn.nowrap
  def _regularisation(self, key_width: int) -> jax.Array:
    """The lambda [H, K], float32 or wider."""
    at_first = np.log(np.expm1(1 - self.lower_bound))
    logits = self.wide_param(
      "regularisation",
      nn.initializers.constant(at_first),
      (self.heads, key_width),
    )
    return self.lower_bound + nn.softplus(logits)

  @nn.nowrap
  def _widths(self) -> tuple[int, int]:
    """K and V, after a check of all fields."""
    check_fields(
      self, "heads", "key_width", "value_width", "steps", "kernel_width"
    )
    check_positive(self, "lower_bound")
    checks.require(
      self.lower_bound < 1,
      f"MesaNet: lower_bound must be below 1, got {self.lower_bound}",
    )
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return key_width, value_width
