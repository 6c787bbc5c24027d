"""DeltaNet, Gated DeltaNet 1 and 2, Kimi Delta Attention: one delta rule."""

import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax

from jaxmodels.layers.common import (
  check_fields,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.gates import beta, low_rank, softplus_decay
from jaxmodels.layers.norms import l2_normalize
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import delta_rule
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = [
  "KDA",
  "DeltaNet",
  "DeltaNetState",
  "GatedDeltaNet",
  "GatedDeltaNet2",
]

DECAYS = ("none", "head", "key")


@serializable
class DeltaNetState(NamedTuple):
  """Three convolution states [B, W - 1, H K | H V] and the state [B, H, K, V].

  The convolutions are those of the query, the key and the value. With M steps
  per token (`DeltaProduct`), those of key and value have M times the channels.
  """

  convolution_states: tuple[jax.Array, jax.Array, jax.Array]
  state: jax.Array


class DeltaNet(Mixer):
  """The delta rule with no decay, one per head, or one per key channel.

  Per head, with x_t the input and S_t [K, V] the state:

    q_t = l2(SiLU(conv(W_q x)_t)) / sqrt(K),  k_t = l2(SiLU(conv(W_k x)_t))
    v_t = SiLU(conv(W_v x)_t),  beta_t = sigmoid(w_b x_t)
    log a_t = -exp(A_log) softplus(W_a x_t + dt_bias)     (0 without a decay)
    S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T
    y_t = W_o concat_heads(RMSNorm(S_t^T q_t) * SiLU(W_g x_t))

  Yang et al. 2024, arXiv:2406.06484, without a decay and an output gate. The
  decay "head" makes a_t one number per head, as in `GatedDeltaNet`; "key" makes
  it [K], through a projection of low rank, with a sigmoid in place of the
  output's SiLU, as in `KDA`. With
  `negative_eigenvalues` beta_t is twice the sigmoid (Grazzi et al. 2024,
  arXiv:2411.12537), and the state transition may flip signs.

  exp(A_log) starts uniform in (0, 16], one per head, and softplus(dt_bias)
  log-uniform in [0.001, 0.1] as in the published code of the decaying forms.
  The published code of all three divides the query by sqrt(K). The RMSNorm
  does not undo that where S_t^T q_t is small: there its epsilon decides.
  Departures: the output gate of KDA has full rank; LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / H.
    value_width: V, by default D / H.
    decay: "none", "head" or "key".
    gate_rank: The rank of the decay's projection for decay "key"; K by default.
    negative_eigenvalues: Whether beta reaches up to 2 in place of 1.
    output_gate: Whether y is gated before the output projection.
    kernel_width: W of the convolutions.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  decay: str = "none"
  gate_rank: int | None = None
  negative_eigenvalues: bool = False
  output_gate: bool = False
  kernel_width: int = 4

  # The range of exp(A_log), at first.
  rates: ClassVar[tuple[float, float]] = (1e-4, 16.0)

  def mix(
    self,
    x: jax.Array,
    state: DeltaNetState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, DeltaNetState]:
    """The equation above."""
    key_width, value_width = self._widths()
    before = (None,) * 3 if state is None else state.convolution_states

    def heads(name, features, entering):
      y = self.dense(name, self.heads * features)(x)
      convolution = self.new_convolution(
        f"{name}_convolution", self.kernel_width
      )
      y, leaving = convolution(y, entering, segment_ids=segment_ids)
      return split_heads(y, self.heads), leaving

    q, query_state = heads("query", key_width, before[0])
    k, key_state = heads("key", self._writes * key_width, before[1])
    v, value_state = heads("value", self._writes * value_width, before[2])
    y, last = self._remember(
      x,
      (l2_normalize(q) * key_width**-0.5).astype(self.dtype),
      k,
      v,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.project_out(self._gated(x, merge_heads(self.new_norm()(y))))
    return y, DeltaNetState((query_state, key_state, value_state), last)

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, jax.Array]:
    """Runs the op on normalised q, and on k and v, of H heads."""
    strength = beta(self, x, self.heads, self._largest_beta)
    return self._run_rule(delta_rule, x, q, k, v, strength, **options)

  @nn.nowrap
  def _run_rule(
    self,
    op: Any,
    x: jax.Array,
    q: jax.Array,
    k: jax.Array,
    *args: Any,
    **options: Any,
  ) -> tuple[jax.Array, jax.Array]:
    """Runs an op with normalised keys, and the decay as its last argument."""
    k = l2_normalize(k).astype(self.dtype)
    log_decay = self._log_decay(x, self.heads, q.shape[-1])
    return self.run(op, q, k, *args, log_decay, **options)

  @property
  def _writes(self) -> int:
    """The number of keys and values per token and head."""
    return 1

  @property
  def _largest_beta(self) -> float:
    """The largest beta."""
    return 2.0 if self.negative_eigenvalues else 1.0

  def _gated(self, x: jax.Array, y: jax.Array) -> jax.Array:
    if not self.output_gate:
      return y
    gate = self.dense("output_gate", y.shape[-1])(x)
    return y * (nn.sigmoid(gate) if self.decay == "key" else nn.silu(gate))

  def _log_decay(
    self, x: jax.Array, heads: int, key_width: int
  ) -> jax.Array | None:
    """None, [B, L, H] or [B, L, H, K]."""
    if self.decay == "none":
      return None
    if self.decay == "head":
      logits = self.dense("decay", heads, dtype=self.wide)(x)
      return softplus_decay(self, logits, heads, self.rates)[0]
    rank, features = self.gate_rank or key_width, heads * key_width
    logits = low_rank(self, x, rank, features, ("decay_down", "decay"))
    return softplus_decay(self, logits, heads, self.rates, per_key=True)[0]

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    sizes = ("heads", "key_width", "value_width", "gate_rank", "kernel_width")
    check_fields(self, *sizes)
    name = type(self).__name__
    checks.require(
      self.decay in DECAYS,
      f"{name}: decay must be one of {DECAYS}, got {self.decay!r}",
    )
    checks.require(
      self.gate_rank is None or self.decay == "key",
      f'{name}: gate_rank is used by decay "key" only, got gate_rank='
      f"{self.gate_rank} with decay={self.decay!r}",
    )
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return key_width, value_width


class GatedDeltaNet(DeltaNet):
  """The delta rule with one decay per head and an output gate.

  Yang et al. 2024, arXiv:2412.06464; the equation is that of `DeltaNet`.

  Attributes:
    decay: "head".
    output_gate: Whether y is gated before the output projection.
  """

  decay: str = "head"
  output_gate: bool = True


class KDA(DeltaNet):
  """Kimi Delta Attention: the delta rule with one decay per key channel.

  Kimi Team 2025, arXiv:2510.26692; the equation is that of `DeltaNet`.

  Attributes:
    decay: "key".
    output_gate: Whether y is gated before the output projection.
  """

  decay: str = "key"
  output_gate: bool = True


class GatedDeltaNet2(DeltaNet):
  """Gated DeltaNet-2: one gate per channel for erasing and one for writing.

  In the letters of `DeltaNet`, with b_t [K] and w_t [V] per head:

    b_t = sigmoid(W_b x_t),  w_t = sigmoid(W_w x_t)
    S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * v_t)^T

  Hatamizadeh et al. 2026, "Gated DeltaNet-2: Decoupling Erase and Write in
  Linear Attention", arXiv:2605.22791. If b_t and w_t are the same number per
  head, this is KDA, and with the decay "head" Gated DeltaNet. exp(A_log) starts
  uniform in [1, 16]. With `negative_eigenvalues` only b_t is doubled, as in the
  published code. Departures: the output gate has full rank; LeCun
  initialisation.

  Attributes:
    decay: "key".
    output_gate: Whether y is gated before the output projection.
  """

  decay: str = "key"
  output_gate: bool = True

  rates: ClassVar[tuple[float, float]] = (1.0, 16.0)

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, jax.Array]:
    erase, write = channel_gates(self, x, self.heads, k.shape[-1], v.shape[-1])
    op = functools.partial(delta_rule, write_gate=write)
    return self._run_rule(op, x, q, k, v, self._largest_beta * erase, **options)


def channel_gates(
  layer: DeltaNet, x: jax.Array, heads: int, key_width: int, value_width: int
) -> tuple[jax.Array, jax.Array]:
  """The erase gate [B, L, H, K] and the write gate [B, L, H, V]."""

  def gate(name, features):
    logits = layer.heads_of(name, x, heads, features, dtype=layer.wide)
    return nn.sigmoid(logits)

  return gate("erase", key_width), gate("write", value_width)
