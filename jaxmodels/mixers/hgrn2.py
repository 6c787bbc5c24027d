"""HGRN2: a gated linear RNN with an expanded state."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, divide, merge_heads
from jaxmodels.mixers.gla import GLAState, convolved
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.feature_maps import identity

__all__ = ["HGRN2"]

# Above 0, so that the logarithm of a lower bound of 0 is a number.
_TINY = 1e-30


class HGRN2(Mixer):
  """Linear attention whose keys are what the forget gates leave.

  Per head, with x_t the input, S_t [K, V] the state and b [K] the lower bound
  of the layer:

    f_t = b + (1 - b) sigmoid(W_f x_t)
    S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T,  i_t = W_i x_t
    y_t = W_o RMSNorm(concat_heads(S_t^T q_t)),  q_t = SiLU(W_q x_t) / sqrt(K)

  Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion",
  arXiv:2404.07904. In a stack the lower bounds grow with the layer: they are
  cumulative sums of a softmax over the layers, less that of the first, whose
  bound is 0. Outside of a stack the bound is 0. Departures: the scale of the
  queries, which the norm undoes but for its epsilon; LeCun initialisation.

  Options of the layer of flash-linear-attention: a short convolution after W_q,
  W_f and W_i; layers whose bounds are 0 in a stack too; and a norm without a
  learned scale.

  The other fields are those of `Mixer`; the state is [B, H, K, V], or with
  convolutions a `GLAState`.

  Attributes:
    heads: H.
    key_width: K, by default D / H.
    lower_bounds: Whether the layer has lower bounds in a stack.
    kernel_width: The kernel width of the convolutions, or None for none.
    norm_scale: Whether the norm has a learned scale.
  """

  heads: int = 4
  key_width: int | None = None
  lower_bounds: bool = True
  kernel_width: int | None = None
  norm_scale: bool = True

  def mix(
    self,
    x: jax.Array,
    state: Any,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above; a stack's lower bounds are `shared["bounds"]`."""
    key_width, value_width = self._widths()
    (q, logits, i), tails = convolved(
      self,
      x,
      {
        "query": (self.heads, key_width),
        "forget": (self.heads, key_width),
        "input": (self.heads, value_width),
      },
      self.kernel_width,
      state.convolution_states if isinstance(state, GLAState) else None,
      segment_ids,
      activation=identity,
      wide=("forget",),
    )
    logits = logits.astype(self.wide)
    bound = jnp.zeros((self.heads, key_width), self.wide)
    if shared is not None and self.lower_bounds:
      bound = shared["bounds"][layer].reshape(bound.shape).astype(self.wide)
    bound = jnp.expand_dims(bound, (0, 1))
    # b + (1 - b) s = b (1 - s) + s, and so 1 - f = (1 - b) (1 - s).
    lowest = jnp.log(jnp.maximum(bound, _TINY)) + nn.log_sigmoid(-logits)
    y, last = self.run(
      linear_attention,
      nn.silu(q) * key_width**-0.5,
      (1 - bound) * nn.sigmoid(-logits),
      i,
      jnp.logaddexp(lowest, nn.log_sigmoid(logits)),
      state=state.state if isinstance(state, GLAState) else state,
      segment_ids=segment_ids,
    )
    y = self.new_norm(use_scale=self.norm_scale)(merge_heads(y))
    y = self.project_out(y)
    after = last if tails is None else GLAState(last, tails)
    return (y, after) if shared is None else (y, after, shared)

  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> dict[str, jax.Array]:
    """The lower bounds of all layers, [depth, H K]."""
    del x
    if not self.lower_bounds:
      return {}
    key_width, _ = self._widths()
    shape = (depth, self.heads * key_width)
    logits = param("lower_bounds", nn.initializers.zeros, shape)
    shares = jax.nn.softmax(logits.astype(self.wide), 0)
    return {"bounds": jnp.cumsum(shares, 0) - shares[:1]}

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    check_fields(self, "heads", "key_width", "kernel_width")
    value_width = divide(self, "heads", self.width, "D")
    return self.key_width or value_width, value_width
