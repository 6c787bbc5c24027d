"""RWKV-6 (Finch): linear attention with a bonus for the present token."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.channel_mix import blend, falling
from jaxmodels.layers.common import (
  check_fields,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.gates import low_rank
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["RWKV6", "RWKVState"]

NAMES = ("decay", "key", "value", "receptance", "output_gate")
# exp(-exp(40)) is 0, and exp(40) is far from overflow.
FASTEST = 40.0


@serializable
class RWKVState(NamedTuple):
  """The last token [B, D] and the state [B, H, K, K]."""

  token: jax.Array
  state: jax.Array


class RWKV6(Mixer):
  """Linear attention with key decays, a bonus, and a mix of adjacent tokens.

  Heads have the width K. With x_t the input, delta_t = x_{t-1} - x_t, and for
  each of c in (w, k, v, r, g):

    x_t^c = x_t + delta_t * (mu_c + U_c tanh(V_c (x_t + delta_t * mu_x)))
    r_t, k_t, v_t = W_r x_t^r, W_k x_t^k, W_v x_t^v
    w_t = exp(-exp(w_0 + W_2 tanh(W_1 x_t^w)))                      [H K]
    y_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t
    S_t = diag(w_t) S_{t-1} + k_t v_t^T
    out = W_o (SiLU(W_g x_t^g) * GroupNorm_H(concat_heads(y_t)))

  Peng et al. 2024, "Eagle and Finch: RWKV with Matrix-Valued States and
  Dynamic Recurrence", arXiv:2404.05892. As in the published code, the initial
  mu, w_0 and u depend on the channel, the layer and the depth of the stack, V_c
  and W_1 are initially 0, and the epsilon of the norm is 64e-5, for heads of
  width 64. Departure: LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    head_width: K, a divisor of D; by default 64, or D if D is smaller.
    mix_rank: The rank of each U_c V_c.
    decay_rank: The rank of W_2 W_1.
    norm_epsilon: Added to the variance in the group norm.
  """

  head_width: int | None = None
  mix_rank: int = 32
  decay_rank: int = 64
  norm_epsilon: float = dataclasses.field(default=64e-5, kw_only=True)

  def mix(
    self,
    x: jax.Array,
    state: RWKVState | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
  ) -> tuple[jax.Array, RWKVState]:
    """The equation above; initial parameters depend on layer and depth."""
    heads = count_heads(self, "mix_rank", "decay_rank")
    x = x.astype(self.dtype)
    entering = None if state is None else state.token
    before, token = self.tokens_before(x, entering, segment_ids)
    mixed = self._mixed(x, before, layer, depth)
    done = layer / max(depth - 1, 1)
    k, v, r = (
      self.heads_of(name, mixed[name], heads, self.width // heads)
      for name in ("key", "value", "receptance")
    )
    bonus = self.wide_param("bonus", _alternating(done), (self.width,))
    y, last = self.run(
      functools.partial(linear_attention, bonus=bonus.reshape(heads, -1)),
      r,
      k,
      v,
      self._log_decay(mixed["decay"], heads, done),
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(kind=LayerNorm, groups=heads)(merge_heads(y))
    gate = nn.silu(self.dense("output_gate", self.width)(mixed["output_gate"]))
    return self.project_out(gate * y), RWKVState(token, last)

  @nn.nowrap
  def _mixed(
    self, x: jax.Array, before: jax.Array, layer: Any, depth: int
  ) -> dict[str, jax.Array]:
    """The five mixes of each token with the one before, by name."""
    left, done = 1 - layer / depth, layer / max(depth - 1, 1)
    first = self.wide_param("mix_all", falling(left), (self.width,))
    seen = blend(x, before, first)
    hidden = self.dense("mix_down", 5 * self.mix_rank, scale=0.0)(seen)
    shape = (5, self.mix_rank, self.width)
    up = self.wide_param("mix_up", _small, shape).astype(self.dtype)
    shares = _five(jnp.tanh(hidden), up)
    power = {"receptance": left / 2, "output_gate": left / 2}
    mixed = {}
    for i, name in enumerate(NAMES):
      more = 0.3 * done if name == "value" else 0.0
      init = falling(power.get(name, left), more)
      mu = self.wide_param(f"mix_{name}", init, (self.width,))
      share = shares[i] + mu.astype(self.dtype)[None, None]
      mixed[name] = blend(x, before, share)
    return mixed

  @nn.nowrap
  def _log_decay(self, x: jax.Array, heads: int, done: Any) -> jax.Array:
    """-exp(w_0 + W_2 tanh(W_1 x)), [B, L, H, K]."""

    def init(key, shape, dtype):
      del key
      channel = jnp.linspace(0.0, 1.0, shape[0], dtype=jnp.float32)
      return (-6 + 5 * channel ** (0.7 + 1.3 * done)).astype(dtype)

    logits = low_rank(
      self, x, self.decay_rank, self.width, activation=jnp.tanh,
      scales=(0.0, 0.1),
    )  # fmt: skip
    bias = self.wide_param("decay_bias", init, (self.width,))
    logits = logits + bias[None, None]
    return split_heads(-jnp.exp(jnp.minimum(logits, FASTEST)), heads)


def count_heads(layer: Any, *ranks: str) -> int:
  """H of a mixer with the field `head_width`, after a check of its ranks."""
  check_fields(layer, "head_width", *ranks)
  if layer.head_width is None:
    return max(layer.width // 64, 1)
  return divide(layer, "head_width", layer.width, "D")


@by_letters("I B L D", hidden="B L R", up="I M D")
def _five(hidden: jax.Array, up: jax.Array) -> jax.Array:
  """Splits hidden [B, L, 5 M], and maps each part to D channels."""
  hidden = split_heads(hidden, up.shape[0])
  return jnp.einsum("blim,imd->ibld", hidden, up)


def _small(key, shape, dtype):
  return jax.random.uniform(key, shape, dtype, -0.01, 0.01)


def _alternating(done: Any) -> nn.initializers.Initializer:
  """The initial bonus: it falls over the channels, and alternates by 0.1."""

  def init(key, shape, dtype):
    del key
    channel = jnp.arange(shape[0], dtype=jnp.float32)
    falls = 1 - channel / max(shape[0] - 1, 1)
    waves = (channel + 1) % 3 - 1
    return (done * falls + 0.1 * waves).astype(dtype)

  return init
