"""TTT-linear: the state is a linear model that learns while it reads."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels import ops
from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
)
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["TTTLinear", "TTTLinearState"]


@serializable
class TTTLinearState(NamedTuple):
  """The state `ops.TTT`, with K + 1 rows: the last one is the bias."""

  state: ops.TTT


class TTTLinear(Mixer):
  """Test-time training: gradient steps on the error of recalled values.

  Per head, with x_t the input, W_t [K, K] and b_t [K] the state, W_0 and the
  norm LN learnt, and t' the last token of the earlier mini-batch:

    q_t, k_t, v_t = W_q x_t, W_k x_t, W_v x_t
    f(u; W, b) = u + LN(W^T u + b)
    rate_t = learning_rate sigmoid(w_r x_t + b_r) / (K M)
    (W_t, b_t) = (W, b)_{t'}
                 - sum_{t' < s <= t} rate_s grad |f(k_s) - v_s|^2 / 2
    y_t = W_o LayerNorm(concat_heads(f(q_t; W_t, b_t)))

  with the gradients at (W, b)_{t'}, and M tokens per mini-batch. Sun et al.
  2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States",
  arXiv:2407.04620. W_0 starts normal with deviation 0.02.

  `method` may be "chunked" or "recurrent". Sequences cannot be sharded, because
  the steps are not linear in the state. Packed documents run token by token.
  Departures from the published code, not from the paper's equation: the steps
  of a mini-batch are divided by M, where the code multiplies the steps that
  token i reads by 1 / i plus a learnt number; there are no rotary positions and
  no short convolution; LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H.
    head_width: K, by default D / H.
    mini_batch: M.
    learning_rate: The largest learning rate, times K M.
  """

  heads: int = 4
  head_width: int | None = None
  mini_batch: int = 16
  learning_rate: float = 1.0

  def mix(
    self,
    x: jax.Array,
    state: TTTLinearState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, TTTLinearState]:
    """The equation above."""
    width = self._width()
    q, k, v = (
      self.heads_of(name, x, self.heads, width)
      for name in ("query", "key", "value")
    )
    logits = self.dense("rate", self.heads, use_bias=True, dtype=self.wide)(x)
    scale = self.learning_rate / (width * self.mini_batch)
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    shape = (self.heads, width)
    weight = self.param(
      "weight", nn.initializers.normal(0.02), (*shape, width), self.param_dtype
    )
    bias = self.param("bias", zeros, shape, self.param_dtype)
    op = functools.partial(
      ops.ttt_linear,
      norm_scale=self.param("norm_scale", ones, shape, self.param_dtype),
      norm_bias=self.param("norm_bias", zeros, shape, self.param_dtype),
      norm_epsilon=self.norm_epsilon,
      mini_batch=self.mini_batch,
    )
    y, last = self.run(
      op,
      _with_one(q),
      _with_one(k),
      v - k,
      scale * nn.sigmoid(logits),
      jnp.concatenate([weight, bias[:, None]], 1),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(kind=LayerNorm)(merge_heads(q + y))
    return self.project_out(y), TTTLinearState(last)

  @nn.nowrap
  def _width(self) -> int:
    """K, after a check of all fields."""
    check_fields(self, "heads", "head_width", "mini_batch")
    check_positive(self, "learning_rate")
    return self.head_width or divide(self, "heads", self.width, "D")


def _with_one(x: jax.Array) -> jax.Array:
  """Appends a channel of 1, which the bias multiplies."""
  return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
