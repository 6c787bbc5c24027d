"""The vector model: vectors in, vectors and a state out."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.ops.engine import checks

__all__ = ["VectorModel"]


class VectorModel(Backbone):
  """y_t = W_o norm(stack(W_i x_t + b_i)) + b_o: a stack for real vectors.

  It is the model of sequences that are not tokens: regression in context, time
  series, and the observations of an agent. It is a `Backbone` between two dense
  maps, so its other fields are those of `Backbone`, and so is its state: a
  sequence that is cut anywhere, and continued from the returned state, gives
  the outputs of the uncut sequence.

  The dense maps compute in float32 or wider, because rounding the inputs to
  bfloat16 would lose what they measure. Initial outputs have a deviation of
  0.1, so initial predictions are near zero.

  Attributes:
    input_width: The number of channels of x.
    output_width: The number of channels of y.
  """

  input_width: int = dataclasses.field(kw_only=True)
  output_width: int = dataclasses.field(kw_only=True)

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Maps each vector, given those before it.

    Args:
      x: [B, L, input_width], real floating point.
      state: The state of an earlier call, or of `init_state`; None is the zero
        state.
      segment_ids: [B, L] integers: each run of equal ids is a sequence of its
        own. Id 0 at the first vector continues `state`. None is one sequence,
        which continues `state`.

    Returns:
      y [B, L, output_width] in float32 or wider, and the state.

    Raises:
      ValueError: A field, x, the state or a mixer is wrong; the message names
        it in one line.
    """
    name = type(self).__name__
    check_fields(self, "input_width", "output_width")
    shape = (None, None, self.input_width)
    checks.shape(name, "x", x, shape, "[B, L, input_width]")
    checks.dtype(name, "x", x, jnp.floating, "real floating point")

    def dense(name: str, features: int, scale: float) -> nn.Dense:
      dtype = wide(self.dtype)
      return projection(
        self, features, name, scale=scale, use_bias=True, dtype=dtype
      )

    x = dense("input", self.width, 1.0)(x)
    x, state = super().__call__(x, state, segment_ids=segment_ids)
    return dense("output", self.output_width, 0.1)(x), state
