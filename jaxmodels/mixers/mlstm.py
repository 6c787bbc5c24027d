"""The mLSTM: linear attention with exponential gates and a normaliser."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
  split_heads,
  wide,
)
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import normalized_linear_attention
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.normalized import EMPTY, Normalized

__all__ = ["MLSTM", "MLSTMBlock", "MLSTMBlockState"]


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
  Departures: the published code adds 1e-6 to the denominator of h (`epsilon`);
  the norm has a bias, unless `norm_bias` is off; LeCun initialisation.
  `MLSTMBlock` is the layer of the first paper.

  The other fields are those of `Mixer`. The state is the `Normalized` of
  `normalized_linear_attention`.

  Attributes:
    heads: H.
    key_width: K, by default D / (2 H).
    value_width: V, by default D / H.
    gate_cap: c, or None for gates without a cap.
    use_bias: Whether W_q, W_k, W_v, W_g and W_o have a bias, initially zero.
    norm_bias: Whether the norm has a bias.
    epsilon: Added to the stabilised denominator of h, 1e-6 in the published
      code; see `normalized_linear_attention`. The first m is then 0, as there.
  """

  heads: int = 4
  key_width: int | None = None
  value_width: int | None = None
  gate_cap: float | None = 15.0
  use_bias: bool = False
  norm_bias: bool = True
  epsilon: float = 0.0

  def mix(
    self, x: jax.Array, state: Normalized | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Normalized]:
    """The equation above."""
    key_width, value_width = self._widths()
    rare = jnp.full(self.heads, -10.0)

    def heads(name: str, features: int) -> jax.Array:
      return self.heads_of(
        name, x, self.heads, features, use_bias=self.use_bias
      )

    k, v = heads("key", key_width), heads("value", value_width)
    if state is None and self.epsilon:
      state = _nothing(k, v)
    h, last = self.run(
      functools.partial(normalized_linear_attention, epsilon=self.epsilon),
      heads("query", key_width) * key_width**-0.5,
      k,
      v,
      self._gate("input_gate", x, rare),
      nn.log_sigmoid(self._gate("forget_gate", x, _long(self.heads))),
      state=state,
      segment_ids=segment_ids,
    )
    norm = self.new_norm(
      kind=LayerNorm, groups=self.heads, use_bias=self.norm_bias
    )
    gate = nn.sigmoid(merge_heads(heads("output_gate", value_width)))
    y = gate * norm(merge_heads(h))
    output = self.dense(
      "output", self.width, scale=self.output_scale, use_bias=self.use_bias
    )
    return output(y), last

  def init_state(self, batch_size: int) -> Any:
    """The empty state: zeros, and the lowest m, or 0 with an epsilon."""
    state = super().init_state(batch_size)
    return state if self.epsilon else empty(state)

  @nn.nowrap
  def _gate(self, name: str, x: jax.Array, bias: jax.Array) -> jax.Array:
    """The capped logits [B, L, H] of a gate, with its initial bias."""
    logits = _gate(self, name, x, lambda *_: bias)
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


@serializable
class MLSTMBlockState(NamedTuple):
  """The convolution state [B, W - 1, E], and the state of the cell."""

  convolution_state: jax.Array
  state: Normalized


class MLSTMBlock(Mixer):
  """The mLSTM between an up- and a down-projection, as in the first xLSTM.

  With E = expand D channels and the cell of `MLSTM`, without its caps:

    z, u = W_z x, W_u x;  c = SiLU(conv(u) + b)
    q, k, v = B_q c, B_k c, B_v u,  gates from W_i [q, k, v] and W_f [q, k, v]
    out = W_o ((LayerNorm(h) + s * c) * SiLU(z)),  s [E] a learned skip

  Each B is block-diagonal. Beck et al. 2024, "xLSTM: Extended Long Short-Term
  Memory", arXiv:2405.04517, whose models of mLSTM blocks have no other channel
  mixer: mlp="none". As in the published code, W_i, W_f, b_f and s are initially
  0, 0, 3 to 6 and 1, and b_i is normal with a deviation of 0.1. Departures as
  in `MLSTM`.

  The other fields are those of `Mixer`.

  Attributes:
    heads: H, a divisor of E.
    expand: E / D.
    kernel_width: W, the kernel width of the convolution.
    block_width: The width of the blocks of B_q, B_k and B_v, a divisor of E.
  """

  heads: int = 4
  expand: int = 2
  kernel_width: int = 4
  block_width: int = 4

  def mix(
    self,
    x: jax.Array,
    state: MLSTMBlockState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, MLSTMBlockState]:
    """The equation above."""
    inner, width = self._sizes()
    z, u = self.dense("gate", inner)(x), self.dense("input", inner)(x)
    convolution = self.new_convolution(
      "convolution", self.kernel_width, use_bias=True
    )
    c, convolution_state = convolution(
      u,
      None if state is None else state.convolution_state,
      segment_ids=segment_ids,
    )
    q, k = self._blocks("query", c), self._blocks("key", c)
    v = self._blocks("value", u)
    seen = jnp.concatenate([q, k, v], -1)
    near_zero = nn.initializers.normal(0.1)
    forget = _gate(self, "forget_gate", seen, lambda *_: _long(self.heads))
    h, last = self.run(
      normalized_linear_attention,
      split_heads(q, self.heads) * width**-0.5,
      split_heads(k, self.heads),
      split_heads(v, self.heads),
      _gate(self, "input_gate", seen, near_zero),
      nn.log_sigmoid(forget),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    h = self.new_norm(kind=LayerNorm, groups=self.heads)(merge_heads(h))
    skip = self.param("skip", nn.initializers.ones, (inner,), self.param_dtype)
    y = (h + skip.astype(c.dtype)[None, None] * c) * nn.silu(z)
    return self.project_out(y), MLSTMBlockState(convolution_state, last)

  def init_state(self, batch_size: int) -> Any:
    """Zeros, and an empty state of the cell."""
    state = super().init_state(batch_size)
    return state._replace(state=empty(state.state))

  @nn.nowrap
  def _blocks(self, name: str, x: jax.Array) -> jax.Array:
    """A block-diagonal map of x [B, L, E]."""
    width = self.block_width
    shape = (x.shape[-1] // width, width, width)
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
    kernel = self.param(name, init, shape, self.param_dtype)
    return _in_blocks(x, kernel.astype(self.dtype))

  def _sizes(self) -> tuple[int, int]:
    """E and the width of a head, after a check of all fields."""
    check_fields(self, "heads", "expand", "kernel_width", "block_width")
    inner = self.expand * self.width
    divide(self, "block_width", inner, "expand * D")
    return inner, divide(self, "heads", inner, "expand * D")


@by_letters("B L E", x="B L E", kernel="N K M")
def _in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Maps each block of K channels of x [B, L, N K] by its own kernel [K, K]."""
  parts = split_heads(x, kernel.shape[0])
  return merge_heads(jnp.einsum("blnk,nkm->blnm", parts, kernel))


def _gate(
  mixer: MLSTM | MLSTMBlock, name: str, x: jax.Array, bias_init: Any
) -> jax.Array:
  """The logits W x + b of a gate, [B, L, H], with W initially 0."""
  heads = mixer.heads
  logits = mixer.dense(name, heads, dtype=mixer.wide, scale=0.0)(x)

  def init(key, shape, dtype):
    return bias_init(key, shape, dtype).astype(dtype)

  return logits + mixer.wide_param(f"{name}_bias", init, (heads,))[None, None]


def _long(heads: int) -> jax.Array:
  """The initial biases of forget gates, from short to long memories: [H]."""
  start, stop = 3.0, 6.0
  return jnp.linspace(start, stop, heads)


def _nothing(k: jax.Array, v: jax.Array) -> Normalized:
  """Zeros of the state of k and v, and m = 0, sharded as they are."""
  k, v = (jnp.sum(jnp.zeros_like(x, wide(x.dtype)), 1) for x in (k, v))
  return Normalized(k[..., None] * v[..., None, :], k, k[..., 0])


def empty(state: Normalized) -> Normalized:
  """The state with the lowest m, whose sums are empty."""
  return state._replace(m=jnp.full_like(state.m, EMPTY))
