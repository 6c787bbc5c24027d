"""Gated linear attention."""

from collections.abc import Callable
from typing import NamedTuple

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
from jaxmodels.layers.mlp import activation_of
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.chunks import repeat_heads
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["GLA", "GLAState"]


@serializable
class GLAState(NamedTuple):
  """The state [B, H, K, V].

  With convolutions, also the last inputs of those of q, k and v, one
  [B, W - 1, F] each; otherwise None.
  """

  state: jax.Array
  convolution_states: tuple[jax.Array, ...] | None = None


class GLA(Mixer):
  """Linear attention with one decay per key channel.

  Per head, with x_t the input and S_t [K, V] the state:

    q_t, k_t, v_t = W_q x_t / sqrt(K), W_k x_t, W_v x_t
    a_t = sigmoid(W_2 W_1 x_t + b)^(1 / temperature)      [K]
    S_t = diag(a_t) S_{t-1} + k_t v_t^T
    y_t = W_o concat_heads(SiLU(W_r x_t) * RMSNorm(S_t^T q_t))

  Yang et al. 2023, "Gated Linear Attention Transformers with
  Hardware-Efficient Training", arXiv:2312.06635. W_2 W_1 has the rank
  `gate_rank`. Departures: RMSNorm per head in place of LayerNorm, and no bias
  in the output gate, as in the authors' later code; LeCun initialisation.

  Options of that code: G key and value heads, each of which serves H / G query
  heads; a short convolution with SiLU after W_q, W_k and W_v; a function phi of
  q and k, before the division by sqrt(K); a lower bound of log a_t; no output
  gate; and a norm without a learned scale.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    key_width: K, by default D / (2 H) as in the paper.
    value_width: V, by default D / H.
    gate_rank: The rank of the decay's projection.
    temperature: The decay is the sigmoid to the power 1 / temperature, so a
      high temperature starts decays near 1.
    kv_heads: G, a divisor of H; H by default.
    kernel_width: The kernel width of the convolutions, or None for none.
    feature_map: phi, a name of `jaxmodels.layers.mlp.ACTIVATIONS`, or None for
      the identity.
    lowest_log_decay: The lower bound of log a_t, or None for none.
    output_gate: Whether y is gated before the output projection.
    norm_scale: Whether the norm has a learned scale.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate_rank: int = 16
  temperature: float = 16.0
  kv_heads: int | None = None
  kernel_width: int | None = None
  feature_map: str | None = None
  lowest_log_decay: float | None = None
  output_gate: bool = True
  norm_scale: bool = True

  def mix(
    self, x: jax.Array, state: GLAState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, GLAState]:
    """The equation above."""
    heads, kv_heads, key_width, value_width = self._sizes()
    (q, k, v), tails = convolved(
      self,
      x,
      {
        "query": (heads, key_width),
        "key": (kv_heads, key_width),
        "value": (kv_heads, value_width),
      },
      self.kernel_width,
      None if state is None else state.convolution_states,
      segment_ids,
    )
    if self.feature_map is not None:
      phi = activation_of(self, "feature_map")
      q, k = phi(q), phi(k)
    log_decay = self._log_decay(x, kv_heads, key_width)
    k, v, log_decay = repeat_heads((k, v, log_decay), heads, 2)
    y, last = self.run(
      linear_attention,
      q * key_width**-0.5,
      k,
      v,
      log_decay,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(use_scale=self.norm_scale)(y)
    if self.output_gate:
      y = y * nn.silu(self.heads_of("output_gate", x, heads, value_width))
    return self.project_out(y), GLAState(last, tails)

  @nn.nowrap
  def _log_decay(self, x: jax.Array, heads: int, key_width: int) -> jax.Array:
    """Log a_t, [B, L, heads, K]."""
    features = heads * key_width
    logits = low_rank(self, x, self.gate_rank, features, use_bias=True)
    log_decay = sigmoid_decay(logits, heads, self.temperature)
    if self.lowest_log_decay is not None:
      log_decay = jnp.maximum(log_decay, self.lowest_log_decay)
    return log_decay

  def _sizes(self) -> tuple[int, int, int, int]:
    """H, G, K and V, after a check of all fields."""
    check_fields(self, "heads", "key_width", "value_width", "gate_rank")
    check_fields(self, "kv_heads", "kernel_width")
    check_positive(self, "temperature")
    checks.require(
      self.key_width is not None or self.width % 2 == 0,
      f"GLA: width must be even where key_width is None, got {self.width}",
    )
    checks.require(
      self.lowest_log_decay is None or self.lowest_log_decay <= 0,
      "GLA: lowest_log_decay must be a number of at most 0, got "
      f"{self.lowest_log_decay!r}",
    )
    half = self.width // 2
    key_width = self.key_width or divide(self, "heads", half, "D / 2")
    value_width = self.value_width or divide(self, "heads", self.width, "D")
    if self.kv_heads is not None:
      divide(self, "kv_heads", self.heads, "heads")
    return self.heads, self.kv_heads or self.heads, key_width, value_width


def convolved(
  mixer: Mixer,
  x: jax.Array,
  sizes: dict[str, tuple[int, int]],
  kernel_width: int | None,
  entering: tuple[jax.Array, ...] | None,
  segment_ids: jax.Array | None,
  activation: Callable[[jax.Array], jax.Array] = nn.silu,
  wide: tuple[str, ...] = (),
) -> tuple[list[jax.Array], tuple[jax.Array, ...] | None]:
  """Maps x to heads, with short convolutions if `kernel_width` is given.

  Args:
    mixer: It gets the projections, and the convolutions "NAME_convolution".
    x: [B, L, D].
    sizes: The number of heads and their width, by the name of the projection.
    kernel_width: The kernel width of the convolutions, or None for none.
    entering: The states of the convolutions, or None.
    segment_ids: [B, L] or None.
    activation: Applied after each convolution.
    wide: Names of projections that are computed in float32 or wider.

  Returns:
    One [B, L, H, F] per name, and the states of the convolutions, or None.
  """
  results, leaving = [], []
  for i, (name, (heads, features)) in enumerate(sizes.items()):
    dtype = mixer.wide if name in wide else mixer.dtype
    y = mixer.dense(name, heads * features, dtype=dtype)(x)
    if kernel_width is not None:
      convolution = mixer.new_convolution(
        f"{name}_convolution", kernel_width, activation=activation
      )
      before = None if entering is None else entering[i]
      y, after = convolution(y, before, segment_ids=segment_ids)
      leaving.append(after)
    results.append(split_heads(y, heads))
  return results, tuple(leaving) if kernel_width is not None else None
