"""Galerkin attention: linear attention over a whole domain."""

import jax

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import bidirectional

__all__ = ["Galerkin"]


class Galerkin(Mixer):
  """Linear attention to all tokens, with norms of keys and values; not causal.

  Per head, over the n tokens s of the segment:

    q_t, k_t, v_t = W_q x_t, LayerNorm(W_k x_t), LayerNorm(W_v x_t)
    y_t = W_o concat_heads((1/n sum_s v_s k_s^T) q_t)

  The mean over s is a quadrature of an integral over the domain, so the layer
  is an operator on functions: a finer sampling of the same function changes y
  little. Cao 2021, "Choose a Transformer: Fourier or Galerkin",
  arXiv:2105.14995; in super-resolution neural operators: Wei & Zhang 2023,
  arXiv:2303.02584. The cost is linear in L. Departures: the norms' parameters
  are shared by the heads; no positions; LeCun initialisation.

  The other fields are those of `Mixer`; `reverse` has no effect. There is no
  state.

  Attributes:
    heads: H.
  """

  heads: int = 4

  def mix(
    self, x: jax.Array, state: None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, tuple[()]]:
    """The equation above."""
    del state
    check_fields(self, "heads")
    width = divide(self, "heads", self.width, "D")
    k = self.heads_of("key", x, self.heads, width)
    v = self.heads_of("value", x, self.heads, width)
    y = bidirectional(
      self.heads_of("query", x, self.heads, width),
      self.new_norm("key_norm", LayerNorm)(k),
      self.new_norm("value_norm", LayerNorm)(v),
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )
    before, after = self.before_and_after(x, segment_ids)
    count = (before + after + 1).astype(y.dtype)
    return self.project_out(y / count[:, :, None, None]), ()
