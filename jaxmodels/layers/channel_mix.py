"""The channel mixer of RWKV, which also reads the token before."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_input, projection, wide
from jaxmodels.layers.mlp import activation_of
from jaxmodels.layers.token_shift import token_shift

__all__ = ["RWKVChannelMix", "blend", "falling", "rising"]


def blend(x: jax.Array, before: jax.Array, share: jax.Array) -> jax.Array:
  """Mixes each token with the one before: x + (before - x) share, as in RWKV.

  Args:
    x: [B, L, D].
    before: [B, L, D], the tokens before those of x.
    share: [D] or [B, L, D], of any dtype; 0 is x, and 1 is `before`.
  """
  share = share if share.ndim == x.ndim else share[None, None]
  return x + (before - x) * share.astype(x.dtype)


def falling(power: jax.Array | float, plus: jax.Array | float = 0.0):
  """The initial shares 1 - ((d / D)^power + plus) of channels d: [..., D].

  They fall from 1 to nearly 0 over the channels, faster in later layers, whose
  power is smaller.
  """

  def init(key, shape, dtype):
    del key
    channel = jnp.arange(shape[-1], dtype=jnp.float32) / shape[-1]
    share = 1 - (channel ** jnp.asarray(power, jnp.float32) + plus)
    return jnp.broadcast_to(share, shape).astype(dtype)

  return init


def rising(power: jax.Array | float, plus: jax.Array | float = 0.0):
  """The initial shares (d / D)^power + plus of channels d: [..., D]."""

  def init(key, shape, dtype):
    return 1 - falling(power, plus)(key, shape, dtype)

  return init


class RWKVChannelMix(nn.Module):
  """A squared ReLU between two maps, on a mix with the token before.

  With x_t the input, and each mu [D]:

    k_t = W_k (x_t + (x_{t-1} - x_t) mu_k)
    y_t = W_v relu(k_t)^2                                          (RWKV-7)
    y_t = sigmoid(W_r (x_t + (x_{t-1} - x_t) mu_r)) W_v relu(k_t)^2 (RWKV-6)

  Peng et al. 2024, arXiv:2404.05892, and Peng et al. 2025, arXiv:2503.14456.
  RWKV-4 (Peng et al. 2023, arXiv:2305.13048) is RWKV-6 with 1 - mu in place of
  mu and a hidden width of 4 D: `receptance` and `own_share`. The initial mu and
  the hidden widths are those of the published code. Departure: LeCun
  initialisation.

  Attributes:
    width: D.
    hidden: Hidden width, by default 4 D, or as in RWKV-6 3.5 D rounded up to a
      multiple of 32.
    receptance: Whether the result has a gate, as in RWKV-4 and RWKV-6.
    own_share: Whether mu is the share of the token itself, as in RWKV-4, and
      not of the token before it.
    activation: The function of k_t, a name of `ACTIVATIONS`.
    output_scale: Factor on the initial weights of the output projection.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  width: int
  hidden: int | None = None
  receptance: bool = False
  own_share: bool = False
  activation: str = "relu2"
  output_scale: float = 1.0
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: jax.Array | None = None,
    *,
    segment_ids: jax.Array | None = None,
    layer: int | jax.Array = 0,
    depth: int = 1,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, L, D] to y [B, L, D]; the state [B, D] is the last token.

    Args:
      x: [B, L, D].
      state: [B, D], the token before the first one; None is zeros.
      segment_ids: [B, L] or None.
      layer: The index of the layer in a stack, for the initial mu.
      depth: The number of layers in the stack.
    """
    check_fields(self, "hidden")
    check_input(self, x, segment_ids)
    x = x.astype(self.dtype)
    before, state = token_shift(
      x, state, segment_ids=segment_ids, axis_name=self.axis_name
    )
    left = 1 - layer / depth
    power = left if self.receptance else left**4
    shares = rising(power) if self.own_share else falling(power)

    def mixed(name: str) -> jax.Array:
      mu = self.param(f"mix_{name}", shares, (self.width,), self.param_dtype)
      mu = mu.astype(wide(self.dtype))
      return blend(x, before, 1 - mu if self.own_share else mu)

    hidden = projection(self, self._hidden(), "key")(mixed("key"))
    output = projection(self, self.width, "output", scale=self.output_scale)
    y = output(activation_of(self)(hidden))
    if self.receptance:
      gate = projection(self, self.width, "receptance")(mixed("receptance"))
      y = nn.sigmoid(gate) * y
    return y, state

  def init_state(self, batch_size: int) -> jax.Array:
    """The token before the first one: zeros [B, D]."""
    return jnp.zeros((batch_size, self.width), wide(self.dtype))

  @nn.nowrap
  def _hidden(self) -> int:
    if self.hidden is not None:
      return self.hidden
    if self.own_share or not self.receptance:
      return 4 * self.width
    return -(-7 * self.width // 64) * 32
