"""Log-linear attention: states whose number grows as the log of the length."""

import functools
from typing import Any

import flax.linen as nn
import jax

from jaxmodels.layers.common import check_fields, split_heads
from jaxmodels.mixers.delta_net import DeltaNet
from jaxmodels.ops import log_linear_attention
from jaxmodels.ops.engine import checks

__all__ = ["LogLinearAttention"]

RULES = ("delta_rule", "linear_attention")


class LogLinearAttention(DeltaNet):
  """Linear attention or a gated delta rule with one state per Fenwick level.

  In the letters of `DeltaNet`, with l(t, s) the level at which token t reads
  token s (`ops.log_linear_attention`), and S_{t,l} the part of the state that
  the tokens of level l have written:

    scale_{t,l} = softplus(c_l (W_s x_t)_l)                for l = 0 ... N
    S_t = sum_l S_{t,l}, with S_t and its transition those of the rule
    y_t = W_o concat_heads(RMSNorm(sum_l scale_{t,l} S_{t,l}^T q_t)
                           * SiLU(W_g x_t))

  Guo et al. 2025, "Log-Linear Attention", arXiv:2506.04761. The rule
  "delta_rule" makes log-linear Gated DeltaNet. "linear_attention" has the head
  decay of Mamba-2 and its scales, but the layer is that of `DeltaNet`: keys
  have norm 1, and no step sizes multiply the values. c_l starts at 1, as in the
  published code of log-linear Mamba-2. Departure: LeCun initialisation.

  The state has N matrices per head for any length, so that shapes are static. N
  matrices distinguish the ranges of 2^N tokens. In longer documents the last
  level holds all earlier tokens in one state, as in the base op.

  Attributes:
    levels: N. The default suits documents of 16,384 tokens.
    rule: "delta_rule", or "linear_attention" without write strengths.
    decay: "none", "head" or "key".
    output_gate: Whether y is gated before the output projection.
  """

  levels: int = 14
  rule: str = "delta_rule"
  decay: str = "head"
  output_gate: bool = True

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, Any]:
    check_fields(self, "levels")
    checks.require(
      self.rule in RULES,
      f"LogLinearAttention: rule must be one of {RULES}, got {self.rule!r}",
    )
    strength = None
    if self.rule == "delta_rule":
      strength = self._strength(x, self.heads)
    op = functools.partial(log_linear_attention, beta=strength)
    return self._run_rule(op, x, q, k, v, self._scale(x), **options)

  @nn.nowrap
  def _scale(self, x: jax.Array) -> jax.Array:
    """The weights of the levels [B, L, H, N + 1]."""
    count = self.levels + 1
    logits = self.dense("scale", self.heads * count, dtype=self.wide)(x)
    factor = self.wide_param(
      "scale_factor", nn.initializers.ones, (self.heads, count)
    )
    return nn.softplus(factor[None, None] * split_heads(logits, self.heads))
