"""Attention to tokens nearby on both sides, in sequences and in images."""

from typing import ClassVar

import flax.linen as nn
import jax

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.attention.neighbors import (
  Rule,
  attend_nearby,
  blocks_with_halo,
  neighborhood,
)
from jaxmodels.ops.engine import checks

__all__ = ["HaloAttention", "NeighborhoodAttention"]


class _Nearby(Mixer):
  """Softmax attention with a bias per offset, to the keys that a rule lists."""

  heads: int = 4
  columns: int | None = None

  sizes: ClassVar[tuple[str, ...]] = ()

  def mix(
    self, x: jax.Array, state: None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, tuple[()]]:
    """The equation of the subclass."""
    del state
    check_fields(self, "heads", "columns", *self.sizes)
    width = divide(self, "heads", self.width, "D")
    rule = self._rule()
    shape = (self.heads, rule.offsets, rule.offsets if self.columns else 1)
    bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    y = attend_nearby(
      self.heads_of("query", x, self.heads, width) * width**-0.5,
      self.heads_of("key", x, self.heads, width),
      self.heads_of("value", x, self.heads, width),
      rule,
      self.columns,
      bias,
      segment_ids=segment_ids,
      axis_name=self.axis_name,
    )
    return self.project_out(y), ()

  @nn.nowrap
  def _rule(self) -> Rule:
    raise NotImplementedError


class NeighborhoodAttention(_Nearby):
  """Softmax attention to the nearest tokens on both sides; not causal.

    q_t, k_t = W_q x_t / sqrt(K), W_k x_t
    y_t = W_o concat_heads(sum_s softmax_s(q_t . k_s + b_{s - t}) W_v x_s)

  over the `kernel_width` nearest tokens s of the segment with (s - t) divisible
  by the dilation, t among them. At the edges the window is shifted, not cut.
  With `columns`, a segment is an image, row by row, and s is in the
  `kernel_width` nearest rows and the `kernel_width` nearest columns. b is
  learned per head and offset, initially 0.

  Hassani et al. 2022, "Neighborhood Attention Transformer", arXiv:2204.07143;
  dilation: Hassani & Shi 2022, arXiv:2209.15001. The cost is linear in L.
  Departure: no biases of the projections; LeCun initialisation.

  The other fields are those of `Mixer`; `reverse`, `method` and `chunk_size`
  have no effect, and there is no state.

  Attributes:
    heads: H.
    columns: The number of columns of an image, or None for a sequence.
    kernel_width: The number of tokens that a query sees along an axis; odd.
    dilation: The distance between tokens that a query sees.
  """

  kernel_width: int = 7
  dilation: int = 1

  sizes: ClassVar[tuple[str, ...]] = ("kernel_width", "dilation")

  @nn.nowrap
  def _rule(self) -> Rule:
    checks.require(
      self.kernel_width % 2 == 1,
      "NeighborhoodAttention: kernel_width must be odd, got "
      f"{self.kernel_width}",
    )
    return neighborhood(self.kernel_width, self.dilation)


class HaloAttention(_Nearby):
  """Softmax attention of blocks to themselves and their surroundings.

    q_t, k_t = W_q x_t / sqrt(K), W_k x_t
    y_t = W_o concat_heads(sum_s softmax_s(q_t . k_s + b_{s - t}) W_v x_s)

  over the tokens s of the block of t and of the `halo` tokens on either side of
  it, in the segment; not causal. Blocks do not overlap and count from the start
  of each segment. With `columns`, a segment is an image, row by row, and blocks
  and halos are squares. b is learned per head and offset, initially 0.

  Vaswani et al. 2021, "Scaling Local Self-Attention for Parameter Efficient
  Visual Backbones", arXiv:2103.12731. Departures: a bias per offset in place of
  the paper's product of q with an embedding per offset; LeCun initialisation.

  The other fields are those of `Mixer`; `reverse`, `method` and `chunk_size`
  have no effect, and there is no state.

  Attributes:
    heads: H.
    columns: The number of columns of an image, or None for a sequence.
    block_size: The number of tokens of a block along an axis.
    halo: The number of tokens that a block sees besides, on either side.
  """

  block_size: int = 8
  halo: int = 3

  sizes: ClassVar[tuple[str, ...]] = ("block_size", "halo")

  @nn.nowrap
  def _rule(self) -> Rule:
    return blocks_with_halo(self.block_size, self.halo)
