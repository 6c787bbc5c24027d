"""Mixture of memories: a router sends each token to a few of M memories."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, split_heads
from jaxmodels.layers.routing import route
from jaxmodels.mixers.delta_net import DeltaNet, channel_gates
from jaxmodels.ops import delta_rule, linear_attention
from jaxmodels.ops.engine import checks

__all__ = ["MixtureOfMemories"]

RULES = ("delta_rule", "delta_rule_gates", "linear_attention")


class MixtureOfMemories(DeltaNet):
  """M memories, of which each token reads and writes top_k, and a shared one.

  In the letters of `DeltaNet`, with one state S^m and own keys, values, write
  strengths and decays per memory m:

    g_t = top_k of softmax(W_r x_t), divided by their sum, 0 elsewhere
    S^m_t = rule(S^m_{t-1}, k^m_t, v^m_t, beta^m_t, a^m_t)  if g^m_t > 0
    S^m_t = S^m_{t-1}                                       otherwise
    y_t = W_o concat_heads(RMSNorm(sum_m g^m_t S^m_t^T q_t) * SiLU(W_g x_t))

  A memory that is not chosen neither decays nor changes. The shared memory has
  g = 1 for all tokens. With one memory this is the rule's own mixer: by
  default Gated DeltaNet, which the published code uses; `rule` and `decay` make
  the others.

  Du et al. 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories",
  arXiv:2502.13685. The memories are heads of one op, and a token does not
  change the memories that it does not choose. So the layer can use all forms of
  the op, at the cost of M + 1 times the heads. The published code instead packs
  the tokens by memory, at the cost of top_k + 1 times the heads. Departures:
  the convolutions run over the whole sequence and not over the tokens of one
  memory; exp(A_log) and dt_bias are those of one memory; LeCun initialisation.

  Attributes:
    memories: M, without the shared one.
    top_k: The number of memories per token.
    shared_memory: Whether there is a memory of all tokens.
    rule: "delta_rule"; "delta_rule_gates", with the gates of `GatedDeltaNet2`;
      or "linear_attention", without write strengths.
    balance_loss: Factor on the load-balance loss, which the mixer sows, see
      `layers.routing.route`.
    decay: "none", "head" or "key".
    output_gate: Whether y is gated before the output projection.
  """

  memories: int = 4
  top_k: int = 2
  shared_memory: bool = True
  rule: str = "delta_rule"
  balance_loss: float = 0.01
  decay: str = "head"
  output_gate: bool = True

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, jax.Array]:
    count, weights = self._writes, self._weights(x)

    def by_memory(y):  # [B, L, H, M F] to [B, L, H M, F].
      y = split_heads(y, count)
      return y.reshape(*y.shape[:2], self.heads * count, y.shape[-1])

    chosen = jnp.tile(weights > 0, (1, 1, self.heads))

    def kept(y):  # y [B, L, H M, ...] of the chosen memories, else 0.
      axes = (1,) * (y.ndim - chosen.ndim)
      return jnp.where(chosen.reshape(*chosen.shape, *axes), y, 0)

    heads = self.heads * count
    q, k = self._per_value_head(q), self._per_value_head(k)
    q, v = jnp.repeat(q, count, 2), by_memory(v)
    k = self._normalized(by_memory(k))
    log_decay = self._log_decay(x, heads, k.shape[-1])
    if log_decay is not None:
      log_decay = kept(log_decay)
    op: Any = delta_rule
    gates: tuple[jax.Array, ...] = ()
    if self.rule == "delta_rule":
      gates = (kept(self._strength(x, heads)),)
    elif self.rule == "delta_rule_gates":
      erase, write = channel_gates(self, x, heads, k.shape[-1], v.shape[-1])
      op = functools.partial(delta_rule, write_gate=kept(write))
      gates = (kept(self._largest_beta * erase),)
    else:
      op, k = linear_attention, kept(k)
    k = k.astype(self.dtype)
    y, last = self.run(op, q, k, v, *gates, log_decay, **options)
    y = y.reshape(*y.shape[:2], self.heads, count, y.shape[-1])
    return jnp.einsum("blhmv,blm->blhv", y, weights.astype(y.dtype)), last

  @nn.nowrap
  def _weights(self, x: jax.Array) -> jax.Array:
    """The weights g [B, L, M], or [B, L, M + 1] with a shared memory."""
    g = route(self, x, self.memories, self.top_k, self.balance_loss).dense
    if not self.shared_memory:
      return g
    return jnp.concatenate([g, jnp.ones_like(g[..., :1])], -1)

  @property
  def _writes(self) -> int:
    check_fields(self, "memories", "top_k")
    checks.require(
      self.rule in RULES,
      f"MixtureOfMemories: rule must be one of {RULES}, got {self.rule!r}",
    )
    return self.memories + self.shared_memory
