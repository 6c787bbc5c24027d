"""DeltaNet, Gated DeltaNet 1 and 2, Kimi Delta Attention: one delta rule."""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import mlp
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
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  **mlp.ACTIVATIONS,
  "elu_plus_one": lambda x: nn.elu(x) + 1,
  "identity": lambda x: x,
}
GATES = {"silu": nn.silu, "sigmoid": nn.sigmoid}


@serializable
class DeltaNetState(NamedTuple):
  """Three convolution states [B, W - 1, h K | H V] and the state [B, H, K, V].

  The convolutions are those of the query, the key and the value. With M steps
  per token (`DeltaProduct`), those of key and value have M times the channels.
  Without convolutions, their states have length 0.
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
  Departures: the output gate of KDA has full rank without a bias, unless
  `output_gate_rank` and `output_gate_bias` say otherwise; LeCun initialisation.

  Further fields are options of published models. With `key_heads` h, value
  head i reads query and key head i // (H / h), as in Qwen3-Next. With
  `decay_bound` the log decay is
  decay_bound * sigmoid(exp(A_log) (W_a x_t + dt_bias)).

  The other fields are those of `Mixer`.

  Attributes:
    heads: H, the heads of values and states.
    key_width: K, by default D / H.
    value_width: V, by default D / H.
    decay: "none", "head" or "key".
    gate_rank: The rank of the decay's projection for decay "key"; K by default.
    negative_eigenvalues: Whether beta reaches up to 2 in place of 1.
    output_gate: Whether y is gated before the output projection.
    kernel_width: W of the convolutions; None for no convolutions.
    key_heads: h, the heads of queries and keys, a divisor of H; H by default.
    decay_bound: The lowest log decay, below 0; None for no bound.
    write_strength: Whether beta depends on the token; if not, it is 1, or 2
      with `negative_eigenvalues`.
    strength_bias: The initial bias of beta's logits; None for no bias. Without
      a bias, and with `negative_eigenvalues`, beta is initially 1: each step
      erases what the state holds under its key. With a bias of 3 beta is 1.9:
      each step is nearly a reflection, which erases nothing.
    qk_activation: The activation of queries and keys: "elu_plus_one",
      "identity", or a name of `jaxmodels.layers.mlp.ACTIVATIONS`.
    value_activation: The activation of values, one of the same names.
    qk_norm: "l2", or "sum": queries and keys are divided by the sum of their
      absolute values.
    output_gate_rank: The rank of W_g; None for full rank.
    output_gate_bias: Whether W_g x has a bias, initially 0.
    output_gate_activation: "silu" or "sigmoid"; by default "sigmoid" for decay
      "key", and "silu" for the others.
    convolution_bias: Whether the convolutions have a bias.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  decay: str = "none"
  gate_rank: int | None = None
  negative_eigenvalues: bool = False
  output_gate: bool = False
  kernel_width: int | None = 4
  key_heads: int | None = None
  decay_bound: float | None = None
  write_strength: bool = True
  strength_bias: float | None = None
  qk_activation: str = "silu"
  value_activation: str = "silu"
  qk_norm: str = "l2"
  output_gate_rank: int | None = None
  output_gate_bias: bool = False
  output_gate_activation: str | None = None
  convolution_bias: bool = False

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
    keys = self.key_heads or self.heads, ACTIVATIONS[self.qk_activation]
    values = self.heads, ACTIVATIONS[self.value_activation]

    def heads(name, entering, count, activation, width):
      y = self.dense(name, count * width)(x)
      y, after = self._convolved(name, y, activation, entering, segment_ids)
      return split_heads(y, count), after

    writes = self._writes
    q, query_state = heads("query", before[0], *keys, key_width)
    k, key_state = heads("key", before[1], *keys, writes * key_width)
    v, value_state = heads("value", before[2], *values, writes * value_width)
    y, last = self._remember(
      x,
      (self._normalized(q) * key_width**-0.5).astype(self.dtype),
      k,
      v,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.project_out(self._gated(x, merge_heads(self.new_norm()(y))))
    return y, DeltaNetState((query_state, key_state, value_state), last)

  @nn.nowrap
  def _convolved(
    self,
    name: str,
    y: jax.Array,
    activation: Callable[[jax.Array], jax.Array],
    state: jax.Array | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """The activation, after a convolution if the layer has them."""
    if self.kernel_width is None:
      return activation(y), jnp.zeros_like(y[:, :0], self.wide)
    convolution = self.new_convolution(
      f"{name}_convolution",
      self.kernel_width,
      use_bias=self.convolution_bias,
      activation=activation,
    )
    return convolution(y, state, segment_ids=segment_ids)

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, jax.Array]:
    """Runs the op on normalised q [B, L, h, K], and on k and v."""
    strength = self._strength(x, self.heads)
    return self._run_rule(delta_rule, x, q, k, v, strength, **options)

  @nn.nowrap
  def _strength(self, x: jax.Array, heads: int) -> jax.Array:
    """The write strengths beta [B, L, heads]."""
    if self.write_strength:
      return beta(self, x, heads, self._largest_beta, self.strength_bias)
    return jnp.full((*x.shape[:2], heads), self._largest_beta, self.wide)

  @nn.nowrap
  def _normalized(self, y: jax.Array) -> jax.Array:
    """Queries or keys [..., K] of norm 1, in float32 or wider."""
    if self.qk_norm == "l2":
      return l2_normalize(y)
    y = y.astype(self.wide)
    return y / jnp.maximum(jnp.sum(jnp.abs(y), -1, keepdims=True), 1e-6)

  @nn.nowrap
  def _per_value_head(self, y: jax.Array) -> jax.Array:
    """Repeats queries or keys [B, L, h, F] to H heads."""
    if self.key_heads in (None, self.heads):
      return y
    return jnp.repeat(y, self.heads // y.shape[2], 2)

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
    k = self._normalized(k).astype(self.dtype)
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
    if self.output_gate_rank is not None:
      x = self.dense("output_gate_down", self.output_gate_rank)(x)
    gate = self.dense(
      "output_gate", y.shape[-1], use_bias=self.output_gate_bias
    )(x)
    default = "sigmoid" if self.decay == "key" else "silu"
    return y * GATES[self.output_gate_activation or default](gate)

  def _log_decay(
    self, x: jax.Array, heads: int, key_width: int
  ) -> jax.Array | None:
    """None, [B, L, H] or [B, L, H, K]."""
    if self.decay == "none":
      return None
    per_key = self.decay == "key"
    if per_key:
      rank, features = self.gate_rank or key_width, heads * key_width
      logits = low_rank(self, x, rank, features, ("decay_down", "decay"))
    else:
      logits = self.dense("decay", heads, dtype=self.wide)(x)
    return softplus_decay(
      self, logits, heads, self.rates, per_key, self.decay_bound
    )[0]

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    check_fields(
      self, "heads", "key_heads", "key_width", "value_width", "gate_rank",
      "output_gate_rank", "kernel_width",
    )  # fmt: skip
    self._check_choices()
    if self.key_heads is not None:
      divide(self, "key_heads", self.heads, "heads")
    key_width = self.key_width or divide(self, "heads", self.width, "D")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    return key_width, value_width

  def _check_choices(self) -> None:
    """Checks the fields that name a choice, and those that need another."""
    name = type(self).__name__
    for field, choices in (
      ("decay", DECAYS),
      ("qk_activation", tuple(ACTIVATIONS)),
      ("value_activation", tuple(ACTIVATIONS)),
      ("qk_norm", ("l2", "sum")),
      ("output_gate_activation", (None, *GATES)),
    ):
      value = getattr(self, field)
      checks.require(
        value in choices,
        f"{name}: {field} must be one of {choices}, got {value!r}",
      )
    checks.require(
      self.gate_rank is None or self.decay == "key",
      f'{name}: gate_rank is used by decay "key" only, got gate_rank='
      f"{self.gate_rank} with decay={self.decay!r}",
    )
    checks.require(
      self.strength_bias is None or self.write_strength,
      f"{name}: strength_bias needs write_strength=True, got "
      f"{self.strength_bias}",
    )
    bound = self.decay_bound
    checks.require(
      bound is None or (self.decay != "none" and -math.inf < bound < 0),
      f"{name}: decay_bound must be a number below 0, for a decay, got "
      f"{bound!r} with decay={self.decay!r}",
    )
    checks.require(
      self.output_gate
      or not (
        self.output_gate_rank
        or self.output_gate_bias
        or self.output_gate_activation
      ),
      f"{name}: output_gate_rank, output_gate_bias and output_gate_activation "
      "need output_gate=True",
    )


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
  checks.require(
    layer.write_strength,
    f"{type(layer).__name__}: write_strength must be True, because erase and "
    "write gates are computed from the token",
  )
  checks.require(
    layer.strength_bias is None,
    f"{type(layer).__name__}: strength_bias must be None, because erase and "
    f"write gates have no bias, got {layer.strength_bias}",
  )

  def gate(name, features):
    logits = layer.heads_of(name, x, heads, features, dtype=layer.wide)
    return nn.sigmoid(logits)

  return gate("erase", key_width), gate("write", value_width)
