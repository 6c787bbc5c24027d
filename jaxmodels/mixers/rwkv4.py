"""RWKV-4 (Dove): a weighted mean of values, with a bonus for the last one."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.channel_mix import blend, rising
from jaxmodels.layers.common import check_fields
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.mlstm import empty
from jaxmodels.mixers.rwkv6 import FASTEST
from jaxmodels.ops import Normalized, normalized_linear_attention
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["RWKV4", "RWKV4State"]

# The weights of a mean are never all 0, so that it needs no floor.
_NO_FLOOR = 1e-300


@serializable
class RWKV4State(NamedTuple):
  """The last token [B, D], and the sums: S [B, E, 1, 1], z [B, E, 1], m."""

  token: jax.Array
  state: Normalized


class RWKV4(Mixer):
  """A mean of the values so far, one per channel, with exponential weights.

  With x_t the input and x_t^c = mu_c x_t + (1 - mu_c) x_{t-1} for each of c in
  (r, k, v), all [E] and elementwise:

    r_t, k_t, v_t = W_r x_t^r, W_k x_t^k, W_v x_t^v
    wkv_t = (S_{t-1} + e^(u + k_t) v_t) / (z_{t-1} + e^(u + k_t))
    S_t = e^-w S_{t-1} + e^(k_t) v_t,  z_t = e^-w z_{t-1} + e^(k_t)
    out = W_o (sigmoid(r_t) * wkv_t),  w = exp(decay)

  Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era",
  arXiv:2305.13048. The sums are held as e^m S and e^m z, so that e^(k_t) may be
  of any size. As in the published code, the initial mu, decay and u depend on
  the channel, the layer and the depth of the stack. Departure: LeCun
  initialisation. Its channel mixer is `RWKVChannelMix` with `receptance` and
  `own_share`.

  The other fields are those of `Mixer`; it has no norm.

  Attributes:
    inner_width: E, by default D.
  """

  inner_width: int | None = None

  def mix(
    self,
    x: jax.Array,
    state: RWKV4State | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
  ) -> tuple[jax.Array, RWKV4State]:
    """The equation above."""
    check_fields(self, "inner_width")
    inner = self.inner_width or self.width
    x = x.astype(self.dtype)
    entering = None if state is None else state.token
    before, token = self.tokens_before(x, entering, segment_ids)
    left, done = 1 - layer / depth, layer / max(depth - 1, 1)

    def mapped(name: str, init: Any, dtype: Any = self.dtype) -> jax.Array:
      mu = self.wide_param(f"mix_{name}", init, (self.width,))
      return self.dense(name, inner, dtype=dtype)(blend(x, before, 1 - mu))

    # The logits of weights are not rounded to bfloat16.
    k = mapped("key", rising(left), self.wide)
    v = mapped("value", rising(left, 0.3 * done))
    r = mapped("receptance", rising(0.5 * left))
    rate = jnp.minimum(
      self.wide_param("decay", _speeds(done), (inner,)), FASTEST
    )
    bonus = self.wide_param("bonus", _alternating, (inner,))
    one = jnp.ones_like(v[..., None])
    y, last = self.run(
      functools.partial(
        normalized_linear_attention, floor=_NO_FLOOR, log_bonus=bonus
      ),
      one,
      one,
      v[..., None],
      k,
      jnp.zeros_like(k) - jnp.exp(rate)[None, None],
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = self.project_out(nn.sigmoid(r) * y[..., 0])
    return y, RWKV4State(token, last)

  def init_state(self, batch_size: int) -> Any:
    """Zeros, and the empty sums."""
    state = super().init_state(batch_size)
    return state._replace(state=empty(state.state))


def _speeds(done: Any) -> nn.initializers.Initializer:
  """The logarithms of the decays, from slow to fast channels."""

  def init(key, shape, dtype):
    del key
    channel = jnp.linspace(0.0, 1.0, shape[0], dtype=jnp.float32)
    power = 0.7 + 1.3 * jnp.asarray(done, jnp.float32)
    return (-5 + 8 * channel**power).astype(dtype)

  return init


def _alternating(key, shape, dtype):
  """The initial bonus: log(0.3), plus 0, 0.5 and -0.5 in turn."""
  del key
  channel = jnp.arange(shape[0], dtype=jnp.float32)
  return (math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1)).astype(dtype)
