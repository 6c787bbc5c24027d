"""DeltaNet, Gated DeltaNet and Kimi Delta Attention: one delta rule."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_input,
  divide,
  merge_heads,
  projection,
  split_heads,
  step_bias,
  wide,
)
from jaxmodels.layers.gates import log_decay
from jaxmodels.layers.norms import RMSNorm, l2_normalize
from jaxmodels.layers.short_convolution import ShortConvolution, zero_tail
from jaxmodels.ops import delta_rule
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["DeltaNet", "DeltaNetState"]

GATES = (None, "head", "key")


@serializable
class DeltaNetState(NamedTuple):
  """Tails [B, W - 1, H K | H V] of the convolutions, memory [B, H, K, V]."""

  query: jax.Array
  key: jax.Array
  value: jax.Array
  memory: jax.Array


class DeltaNet(nn.Module):
  """The delta rule with no decay, one a head, or one a key channel.

  Per head, with x_t the input and S_t [K, V] the memory:

    q_t = l2(SiLU(conv(W_q x)_t)) / sqrt(K),  k_t = l2(SiLU(conv(W_k x)_t))
    v_t = SiLU(conv(W_v x)_t),  beta_t = sigmoid(w_b x_t)
    log a_t = -exp(A_log) softplus(W_a x_t + dt_bias)     (0 without a gate)
    S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T
    y_t = W_o concat_heads(RMSNorm(S_t^T q_t) * SiLU(W_g x_t))

  gate None: DeltaNet (Yang et al. 2024, arXiv:2406.06484); "head": a_t a
  number a head, Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464); "key":
  a_t [K] through a projection of low rank and a sigmoid in place of the
  output's SiLU, KDA (Kimi Team 2025, arXiv:2510.26692). With
  `negative_eigenvalues` beta_t is twice the sigmoid (Grazzi et al. 2024,
  arXiv:2411.12537), and the state transition may flip signs.

  exp(A_log) starts uniform in (0, 16], one a head, and softplus(dt_bias)
  log-uniform in [0.001, 0.1] as in the published code of the gated forms.
  The published code of all three divides the query by sqrt(K). The RMSNorm
  does not undo that where S_t^T q_t is small: there its epsilon decides.
  Departures: the output gate of KDA has full rank; LeCun initialisation.

  Attributes:
    width: D.
    heads: H.
    key_width: K, by default D / H.
    value_width: V, by default D / H.
    gate: None, "head" or "key".
    gate_rank: Of the decay's projection for gate "key"; K by default.
    negative_eigenvalues: Whether beta reaches up to 2 in place of 1.
    output_gate: Whether y is gated before the output projection.
    kernel_width: W of the convolutions.
    output_scale: Factor on the initial weights of the output projection.
    method: Of the op.
    chunk_size: Of the op.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; decays, beta, the norms of q and k and the
      memory are float32 or wider.
    param_dtype: Of the parameters.
  """

  width: int
  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate: str | None = None
  gate_rank: int | None = None
  negative_eigenvalues: bool = False
  output_gate: bool = True
  kernel_width: int = 4
  output_scale: float = 1.0
  method: str = "auto"
  chunk_size: int | None = None
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: DeltaNetState | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, DeltaNetState]:
    """Mixes along L.

    Args:
      x: [B, L, D].
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.

    Returns:
      y: [B, L, D], and the state.
    """
    key_width, value_width = self._widths()
    check_input(self, x, segment_ids)
    tails = {}

    def heads(name: str, features: int) -> jax.Array:
      y = projection(self, self.heads * features, name)(x)
      tail = None if state is None else getattr(state, name)
      convolution = self._convolution(f"{name}_convolution")
      y, tails[name] = convolution(y, tail, segment_ids=segment_ids)
      return split_heads(y, self.heads)

    q, k = heads("query", key_width), heads("key", key_width)
    v = heads("value", value_width)
    y, memory = delta_rule(
      (l2_normalize(q) * key_width**-0.5).astype(self.dtype),
      l2_normalize(k).astype(self.dtype),
      v,
      self._beta(x),
      self._log_decay(x, key_width),
      None if state is None else state.memory,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    output = projection(self, self.width, "output", scale=self.output_scale)
    y = output(self._read_out(x, y))
    return y, DeltaNetState(**tails, memory=memory)

  def _read_out(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Norms each head, gates it, and joins the heads."""
    norm = RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")
    y = merge_heads(norm(y))
    if not self.output_gate:
      return y
    gate = projection(self, y.shape[-1], "output_gate")(x)
    return y * (nn.sigmoid(gate) if self.gate == "key" else nn.silu(gate))

  def _beta(self, x: jax.Array) -> jax.Array:
    """How much of what a key recalls is replaced, [B, L, H]."""
    gates = wide(self.dtype)
    logits = projection(self, self.heads, "beta", dtype=gates)(x.astype(gates))
    return (2.0 if self.negative_eigenvalues else 1.0) * nn.sigmoid(logits)

  def _log_decay(self, x: jax.Array, key_width: int) -> jax.Array | None:
    """None, [B, L, H] or [B, L, H, K]."""
    if self.gate is None:
      return None
    gates = wide(self.dtype)
    x, features = x.astype(gates), self.heads
    if self.gate == "key":
      features = self.heads * key_width
      rank = self.gate_rank or key_width
      x = projection(self, rank, "decay_down", dtype=gates)(x)
    logits = projection(self, features, "decay", dtype=gates)(x)

    def log_of_uniform(key, shape, dtype):
      return jnp.log(jax.random.uniform(key, shape, dtype, 1e-4, 16.0))

    init = step_bias(1e-3, 1e-1)
    bias = self.param("dt_bias", init, (features,), self.param_dtype)
    rate = self.param(
      "A_log", log_of_uniform, (self.heads,), self.param_dtype
    ).astype(gates)
    logits = logits + bias.astype(gates)[None, None]
    if self.gate == "key":
      logits, rate = split_heads(logits, self.heads), rate[:, None]
    return log_decay(rate[None, None], logits)

  def _convolution(self, name: str) -> ShortConvolution:
    return ShortConvolution(
      self.kernel_width,
      axis_name=self.axis_name,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    sizes = ("heads", "key_width", "value_width", "gate_rank", "kernel_width")
    check_fields(self, *sizes)
    checks.require(
      self.gate in GATES,
      f"DeltaNet: gate must be one of {GATES}, got {self.gate!r}",
    )
    checks.require(
      self.gate_rank is None or self.gate == "key",
      'DeltaNet: gate_rank is used by gate "key" only, got gate_rank='
      f"{self.gate_rank} with gate={self.gate!r}",
    )
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return key_width, value_width

  def init_state(self, batch_size: int) -> DeltaNetState:
    """Zeros."""
    key_width, value_width = self._widths()

    def tail(features: int) -> jax.Array:
      channels = self.heads * features
      return zero_tail(batch_size, self.kernel_width, channels, self.dtype)

    memory = (batch_size, self.heads, key_width, value_width)
    return DeltaNetState(
      query=tail(key_width),
      key=tail(key_width),
      value=tail(value_width),
      memory=jnp.zeros(memory, wide(self.dtype)),
    )
