"""RWKV-7 (Goose): a generalised delta rule with rates per channel."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.channel_mix import blend, falling
from jaxmodels.layers.common import (
  check_positive,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.gates import low_rank
from jaxmodels.layers.norms import LayerNorm, l2_normalize
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.rwkv6 import RWKVState, count_heads
from jaxmodels.ops import dplr_recurrence

__all__ = ["RWKV7"]

# The powers of the initial shares of the last token, times 1 - layer / depth.
POWERS = {
  "receptance": 0.2,
  "decay": 0.9,
  "key": 0.7,
  "value": 0.7,
  "rate": 0.9,
  "output_gate": 0.2,
}
RANKS = ("decay_rank", "rate_rank", "value_rank", "gate_rank")
# e^(-1/2): a token's log decay is at least minus this number.
FASTEST = 0.6065306597126334


class RWKV7(Mixer):
  """A delta rule that removes and writes with different keys and rates.

  Heads have the width K. With x_t the input, x_t^c = x_t + (x_{t-1} - x_t) mu_c
  for each of c in (r, w, k, v, a, g), and LoRA_c(x) = W_c2 f(W_c1 x) + b_c:

    r_t, k_t, v_t = W_r x_t^r, W_k x_t^k, W_v x_t^v
    w_t = exp(-e^(-1/2) sigmoid(LoRA_w(x_t^w))),  f = tanh             [H K]
    a_t = sigmoid(LoRA_a(x_t^a)),  g_t = W_g2 sigmoid(W_g1 x_t^g)
    v_t = v_t + (v_t^first - v_t) sigmoid(LoRA_v(x_t^v))
    kappa_t = l2(k_t * xi) per head,  k_t = k_t * (1 + (a_t - 1) * alpha)
    S_t = (diag(w_t) - (a_t * kappa_t) kappa_t^T) S_{t-1} + k_t v_t^T
    y_t = GroupNorm_H(S_t^T r_t) + (r_t . (rho * k_t)) v_t
    out = W_o (g_t * concat_heads(y_t))

  v^first is the value of the first such layer of the stack; that layer, and a
  layer outside of a stack, mix no value. Peng et al. 2025, "RWKV-7 Goose with
  Expressive Dynamic State Evolution", arXiv:2503.14456; xi, alpha and rho are
  k_k, k_a and r_k in its code. As there, the ranks grow with the root of D, the
  initial mu, b_w, b_a, b_v and xi depend on the channel, the layer and the
  depth, all W_c1 but W_g1 are initially 0, alpha is 1.02, rho is -0.04, and the
  epsilon of the norm is 64e-5, for heads of width 64. Departures: LeCun
  initialisation of the other maps (there W_o starts at 0), and a norm whose
  scale starts at 1 in all layers.

  The eigenvalues of diag(w_t) - (a_t * kappa_t) kappa_t^T are at least 0 where
  w_t is 1. With `negative_eigenvalues` the first factor is
  (1 + w_t) * a_t * kappa_t, so that a token may flip the sign of a direction.
  Where w_t is 1 this is c = 2 in the paper's theorems on state tracking. With
  c = 2 and a smaller w_t, eigenvalues would reach w_t - 2, below -1, and the
  state would grow without bound. The published models have c = 1.

  The other fields are those of `Mixer`.

  Attributes:
    head_width: K, a divisor of D; by default 64, or D if D is smaller.
    decay_rank: The rank of LoRA_w, by default about 2.5 sqrt(D).
    rate_rank: The rank of LoRA_a, by default about 2.5 sqrt(D).
    value_rank: The rank of LoRA_v, by default about 1.7 sqrt(D).
    gate_rank: The rank of W_g2 W_g1, by default about 5 sqrt(D).
    norm_epsilon: Added to the variance in the group norm.
    key_epsilon: Added inside the root of l2.
    negative_eigenvalues: Whether a token removes with the rate (1 + w_t) a_t,
      not a_t.
  """

  head_width: int | None = None
  decay_rank: int | None = None
  rate_rank: int | None = None
  value_rank: int | None = None
  gate_rank: int | None = None
  norm_epsilon: float = dataclasses.field(default=64e-5, kw_only=True)
  key_epsilon: float = dataclasses.field(default=1e-6, kw_only=True)
  negative_eigenvalues: bool = dataclasses.field(default=False, kw_only=True)

  def mix(
    self,
    x: jax.Array,
    state: RWKVState | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above; shared["first_value"] is v^first."""
    heads = count_heads(self, *RANKS)
    check_positive(self, "key_epsilon")
    x = x.astype(self.dtype)
    entering = None if state is None else state.token
    before, token = self.tokens_before(x, entering, segment_ids)
    mixed = {
      name: blend(
        x,
        before,
        self._per_channel(f"mix_{name}", falling(power * (1 - layer / depth))),
      )
      for name, power in POWERS.items()
    }
    r = self.heads_of(
      "receptance", mixed["receptance"], heads, self.width // heads
    )
    k = self.dense("key", self.width)(mixed["key"]).astype(self.wide)
    v, shared = self._value(mixed["value"], layer, shared)
    log_w = self._log_decay(mixed["decay"], layer / max(depth - 1, 1))
    a = nn.sigmoid(self._rate(mixed["rate"]))
    xi = self._per_channel("xi", _line(0.71, -0.1))[None, None]
    alpha = self._per_channel("alpha", nn.initializers.constant(1.02))
    kappa = l2_normalize(split_heads(k * xi, heads), self.key_epsilon)
    k = (k * (1 + (a - 1) * alpha[None, None])).astype(self.dtype)
    if self.negative_eigenvalues:
      a = (1 + jnp.exp(log_w)) * a
    k, v, a, log_w = (split_heads(u, heads) for u in (k, v, a, log_w))
    y, last = self.run(
      dplr_recurrence,
      r,
      k,
      v,
      (a * kappa).astype(self.dtype),
      -kappa.astype(self.dtype),
      log_w,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(kind=LayerNorm, groups=heads)(merge_heads(y))
    y = y + self._bonus(r, k, v)
    g = self._low_rank(
      "gate", mixed["output_gate"], self.gate_rank, 5.0, nn.sigmoid
    )
    y = self.project_out(g.astype(self.dtype) * y)
    state = RWKVState(token, last)
    return (y, state) if shared is None else (y, state, shared)

  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> dict[str, jax.Array]:
    """No value yet: zeros [B, L, D], and False."""
    del depth, param
    value = jnp.zeros_like(x, self.dtype)
    return {"first_value": value, "has_first_value": jnp.asarray(False)}

  @nn.nowrap
  def _value(self, x: jax.Array, layer: Any, shared: Any) -> tuple[Any, Any]:
    """The value [B, L, D], mixed with the first layer's, and shared values."""
    v = self.dense("value", self.width)(x)
    if shared is None:
      return v, None
    first, known = shared["first_value"], shared["has_first_value"]
    mine = {
      "first_value": jnp.where(known, first, v),
      "has_first_value": jnp.asarray(True),
    }
    if isinstance(layer, int) and layer == 0:
      return v, dict(shared) | mine
    logits = self._low_rank("value", x, self.value_rank, 1.7)
    bias = self._per_channel("value_bias", _line(0.73, -0.4))
    logits = logits + bias[None, None]
    share = jnp.where(known, nn.sigmoid(logits), 0)
    return blend(v, first, share), dict(shared) | mine

  @nn.nowrap
  def _rate(self, x: jax.Array) -> jax.Array:
    """The logits of a, [B, L, D]."""

    def init(key, shape, dtype):
      waves = 0.3 * self._zigzag()
      return (-0.19 + waves).astype(dtype) + _line(0.0, 0.4)(key, shape, dtype)

    logits = self._low_rank("rate", x, self.rate_rank, 2.5)
    return logits + self._per_channel("rate_bias", init)[None, None]

  @nn.nowrap
  def _log_decay(self, x: jax.Array, done: Any) -> jax.Array:
    """Log w [B, L, D], initially from the share `done` of earlier layers."""

    def init(key, shape, dtype):
      del key
      channel = jnp.linspace(0.0, 1.0, shape[0], dtype=jnp.float32)
      speed = -6 + 6 * channel ** (1 + jnp.asarray(done, jnp.float32) ** 0.3)
      return (speed + 0.5 + 2.5 * self._zigzag()).astype(dtype)

    logits = self._low_rank("decay", x, self.decay_rank, 2.5, jnp.tanh)
    logits = logits + self._per_channel("decay_bias", init)[None, None]
    return -FASTEST * nn.sigmoid(logits)

  @nn.nowrap
  def _low_rank(
    self,
    name: str,
    x: jax.Array,
    rank: int | None,
    factor: float,
    activation: Callable[[jax.Array], jax.Array] | None = None,
  ) -> jax.Array:
    """W_2 f(W_1 x), [B, L, D]; the default rank is a multiple of 32."""
    rank = rank or max(32, round(factor * self.width**0.5 / 32) * 32)
    names = (f"{name}_down", f"{name}_up")
    scales = (1.0, 1.0) if name == "gate" else (0.0, 0.1)
    return low_rank(
      self, x, rank, self.width, names, activation=activation, scales=scales
    )

  @nn.nowrap
  def _bonus(self, r: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """(r . (rho * k)) v, [B, L, D]."""
    rho = self._per_channel("rho", nn.initializers.constant(-0.04))
    rho = rho.reshape(r.shape[2:]).astype(r.dtype)[None, None]
    return merge_heads(jnp.sum(r * rho * k, -1, keepdims=True) * v)

  @nn.nowrap
  def _zigzag(self) -> jax.Array:
    """A signed square from -1 to 1 over the channels of each head, [D]."""
    heads = count_heads(self, *RANKS)
    channel = jnp.linspace(-1.0, 1.0, self.width // heads, dtype=jnp.float32)
    return jnp.tile(channel * jnp.abs(channel), heads)

  @nn.nowrap
  def _per_channel(
    self, name: str, init: nn.initializers.Initializer
  ) -> jax.Array:
    """A parameter [D], in float32 or wider."""
    return self.wide_param(name, init, (self.width,))


def _line(middle: float, rise: float) -> nn.initializers.Initializer:
  """From middle - rise / 2 to middle + rise / 2 over the channels."""

  def init(key, shape, dtype):
    del key
    half = rise / 2
    return jnp.linspace(middle - half, middle + half, shape[0], dtype=dtype)

  return init
