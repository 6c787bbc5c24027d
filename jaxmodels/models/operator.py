"""Operators between functions: one set of weights for every resolution."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection
from jaxmodels.mixers.registry import Entry
from jaxmodels.models.backbone import Backbone
from jaxmodels.ops.engine import checks

__all__ = ["Operator"]


class Operator(nn.Module):
  """Maps a function to a function, both known by samples at L points.

    h = W_i [values, sin(2 pi j c), cos(2 pi j c)]
    y = W_o backbone(h)

  for every coordinate c and j = 1, ..., harmonics. Each layer is Galerkin
  attention, a mean over the points, and a channel mixer per point. A mean over
  a finer grid is close to the same integral, so weights that were trained at
  one resolution work at others. The points are those of any grid of even
  density, in any order; they are also the points of y.

  Cao 2021, "Choose a Transformer: Fourier or Galerkin", arXiv:2105.14995.
  Departures: coordinates enter as sines and cosines before the first layer, and
  not again in every head; layers have norms before the mixers (the paper's have
  none); the decoder is a dense map per point, without spectral convolutions.

  Attributes:
    width: D.
    depth: The number of layers.
    outputs: O, the number of values of y per point.
    coordinates: P, how many of the last channels of x are coordinates. The
      sines have the period 1; a domain that is not periodic fits in [0, 1/2].
    harmonics: Sines and cosines per coordinate.
    mixers: Of the layers, see `Backbone`. They must not depend on the number
      of points: `Galerkin`, or `Bidirectional` of a mixer with continuous time.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  width: int
  depth: int
  outputs: int = 1
  coordinates: int = 1
  harmonics: int = 4
  mixers: tuple[Entry, ...] = ("galerkin",)
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: Any = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    """Applies the operator.

    Args:
      x: [B, L, C + P], the values of C functions and the P coordinates of each
        point.
      state: None, or the state of a call, which holds nothing.
      segment_ids: [B, L], a run of equal ids per function, or None.

    Returns:
      y [B, L, O], and a state without arrays.

    Raises:
      ValueError: A field or x is wrong; the message names it.
    """
    check_fields(self, "width", "depth", "outputs", "coordinates", "harmonics")
    checks.shape("Operator", "x", x, (None,) * 3, "[B, L, C + P]")
    checks.require(
      x.shape[-1] > self.coordinates,
      f"Operator: x must be [B, L, C + P] with C of at least 1 and P = "
      f"{self.coordinates}, got shape {x.shape}",
    )
    place = x[..., x.shape[-1] - self.coordinates :]
    multiples = jnp.arange(1, self.harmonics + 1, dtype=place.dtype)
    angles = 2 * math.pi * place[..., None] * multiples[None, None, None]
    angles = angles.reshape(*place.shape[:-1], -1)
    values = x[..., : x.shape[-1] - self.coordinates]
    h = jnp.concatenate([values, jnp.sin(angles), jnp.cos(angles)], -1)
    h = projection(self, self.width, "input", use_bias=True)(h)
    h, state = Backbone(
      width=self.width,
      depth=self.depth,
      mixers=self.mixers,
      axis_name=self.axis_name,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="backbone",
    )(h, state, segment_ids=segment_ids)
    return projection(self, self.outputs, "output", use_bias=True)(h), state
