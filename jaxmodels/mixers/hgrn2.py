"""HGRN2: a gated linear RNN with an expanded state."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, divide, merge_heads
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import linear_attention

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

  The other fields are those of `Mixer`; the state is [B, H, K, V].

  Attributes:
    heads: H.
    key_width: K, by default D / H.
  """

  heads: int = 4
  key_width: int | None = None

  def mix(
    self,
    x: jax.Array,
    state: jax.Array | None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above; a stack's lower bounds are `shared["bounds"]`."""
    key_width, value_width = self._widths()
    logits = self.heads_of("forget", x, self.heads, key_width, dtype=self.wide)
    bound = jnp.zeros((self.heads, key_width), self.wide)
    if shared is not None:
      bound = shared["bounds"][layer].reshape(bound.shape).astype(self.wide)
    bound = jnp.expand_dims(bound, (0, 1))
    # b + (1 - b) s = b (1 - s) + s, and so 1 - f = (1 - b) (1 - s).
    lowest = jnp.log(jnp.maximum(bound, _TINY)) + nn.log_sigmoid(-logits)
    log_forget = jnp.logaddexp(lowest, nn.log_sigmoid(logits))
    q = nn.silu(self.heads_of("query", x, self.heads, key_width))
    y, last = self.run(
      linear_attention,
      q * key_width**-0.5,
      (1 - bound) * nn.sigmoid(-logits),
      self.heads_of("input", x, self.heads, value_width),
      log_forget,
      state=state,
      segment_ids=segment_ids,
    )
    y = self.project_out(self.new_norm()(merge_heads(y)))
    return (y, last) if shared is None else (y, last, shared)

  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> dict[str, jax.Array]:
    """The lower bounds of all layers, [depth, H K]."""
    del x
    key_width, _ = self._widths()
    shape = (depth, self.heads * key_width)
    logits = param("lower_bounds", nn.initializers.zeros, shape)
    shares = jax.nn.softmax(logits, 0)
    return {"bounds": jnp.cumsum(shares, 0) - shares[:1]}

  def _widths(self) -> tuple[int, int]:
    """K and V, once all fields are checked."""
    check_fields(self, "heads", "key_width")
    value_width = divide(self, "heads", self.width, "D")
    return self.key_width or value_width, value_width
