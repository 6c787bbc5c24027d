"""Point clouds: groups of neighbours as tokens, as in Mamba3D."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.layers.point_groups import (
  farthest_points,
  nearest_points,
  normalize_cloud,
  take,
)
from jaxmodels.mixers.bidirectional import Bidirectional
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.models.block import make_norm
from jaxmodels.models.classifier import class_head
from jaxmodels.ops.engine import checks

__all__ = ["LocalNormPooling", "PointClassifier", "TokenChannel"]


class TokenChannel(Bidirectional):
  """y = mixer(x) + flip(mixer(flip(x))), where flip reverses the channels.

  This is the bidirectional block of Mamba3D (Han et al. 2024,
  arXiv:2404.14966): both directions run from the first token to the last,
  because the tokens of a cloud have no order to reverse, and the second one
  reads the channels backwards. In their Mamba the two have the outer
  projections in common, and not the parts between. Departure: here all
  parameters are `tied` or none, for any mixer. Untied, a mixer that begins and
  ends with dense maps can undo the reversal by its weights.

  The other fields are those of `Bidirectional`. There is no state.

  Attributes:
    tied: Whether both directions have the same parameters.
  """

  tied: bool = True

  _names = ("token", "channel")
  _of_second: ClassVar[Mapping[str, Any]] = {}

  @nn.nowrap
  def _turned(self, x: jax.Array) -> jax.Array:
    """The channels of x, backwards."""
    return x[..., ::-1]


class LocalNormPooling(nn.Module):
  """Features of neighbours, normalised and pooled: Mamba3D's local block.

  With f_i the features of token i and N_i its K neighbours, itself included:

    s_i = sqrt(mean_{j in N_i, c} (f_jc - f_ic)^2)               per token
    h_ij = a * [(f_j - f_i) / (s_i + e), f_i] + b                [2 D]
    p_i = sum_{j in N_i} softmax_j(h_ij) * h_ij                  per channel
    y_i = W_2 SiLU(W_1 p_i)

  The first two lines are the K-norm, which also passes the features of the
  center on to its neighbours, and the third is the K-pooling (Han et al. 2024,
  arXiv:2404.14966). Departure: s_i is that of one group, where their code takes
  one deviation over all groups of a batch, so that clouds depend on others.

  Attributes:
    output_scale: Factor on the initial weights W_2.
    epsilon: e.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  output_scale: float = 1.0
  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, neighbors: jax.Array) -> jax.Array:
    """Pools x [B, G, D] over neighbors [B, G, K], indices of tokens."""
    width, x = x.shape[-1], x.astype(self.dtype)
    center = jnp.broadcast_to(x[:, :, None], (*neighbors.shape, width))
    gap = take(x, neighbors) - center
    square = jnp.mean(jnp.square(gap.astype(wide(self.dtype))), (2, 3))
    # The root of 0 has no gradient: a group of equal features has gaps of 0.
    scale = jnp.sqrt(jnp.where(square > 0, square, 1)) + self.epsilon
    gap = gap / scale[:, :, None, None].astype(self.dtype)
    shape, ones = (1, 1, 1, 2 * width), nn.initializers.ones
    a = self.param("scale", ones, shape, self.param_dtype)
    b = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    h = jnp.concatenate([gap, center], -1)
    h = h * a.astype(self.dtype) + b.astype(self.dtype)
    pooled = jnp.sum(nn.softmax(h, 2) * h, 2)
    hidden = nn.silu(projection(self, width, "hidden", use_bias=True)(pooled))
    return projection(self, width, "pooled", scale=self.output_scale)(hidden)


class PointClassifier(Backbone, kw_only=True):
  """The class of a cloud of points, from groups of neighbours: Mamba3D.

  The centers c_g of the groups are `groups` farthest points, and a group has
  the `neighbors` points p_gk nearest to its center. Its token is

    e_gk = W_2 SiLU(W_1 (p_gk - c_g)),  h_gk = W_4 SiLU(W_3 [e_gk, max_k e_gk])
    x_g = max_k h_gk + U_2 SiLU(U_1 c_g)

  which is PointNet in a group. Before each layer of the stack is

    x = x + LocalNormPooling(norm(x))

  and the logits are a dense map of [mean_g x_g, max_g x_g]. It is a `Backbone`
  between the two, so its other fields are those of `Backbone`. The mixers run
  along the centers, in the order in which they were chosen. `TokenChannel` with
  `Mamba` and no channel mixer is Mamba3D.

  Han et al. 2024, "Mamba3D: Enhancing Local Features for 3D Point Cloud
  Analysis via State Space Model", arXiv:2404.14966. Departures: the mean in
  place of a class token; RMSNorm; a first center that does not depend on the
  order of the points (see `farthest_points`), so neither do the logits; no
  pretraining. With `normalize` the logits do not depend on the place and the
  size of the cloud either.

  With one group of all points and a depth of 0, it is PointNet (Qi et al. 2016,
  arXiv:1612.00593) without its transforms.

  Attributes:
    depth: The number of layers, 0 or more.
    classes: The number of classes.
    groups: The number of groups of points, and of tokens.
    neighbors: The number of points per group.
    pooled: K of `LocalNormPooling`, the number of neighbouring tokens.
    normalize: Whether clouds are moved and scaled to a ball of radius 1.
  """

  classes: int
  groups: int = 32
  neighbors: int = 16
  pooled: int = 4
  normalize: bool = True

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Classifies clouds.

    Args:
      x: Points [B, N, 3], real floating point, N at least `groups` and
        `neighbors`.
      state: None: clouds have no state.
      segment_ids: None: one cloud per row.

    Returns:
      Logits [B, classes] in float32 or wider, and ().

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    check_fields(self, "classes", "groups", "neighbors", "pooled")
    points = checked_points(self, x, state, segment_ids)
    if self.normalize:
      points = normalize_cloud(points)
    centers = take(points, farthest_points(points, self.groups))
    x = self._tokens(points, centers)
    near = nearest_points(centers, centers, min(self.pooled, self.groups))
    blocks = self.pattern() if self.depth else ()
    shared = self._initial_shared(blocks, x)
    for layer in range(self.depth):
      pool = LocalNormPooling(
        1 / math.sqrt(3 * self.depth),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f"pool_{layer}",
      )
      local = pool(make_norm(self, f"pool_norm_{layer}")(x), near)
      x = x + local.astype(x.dtype)
      x, _, shared = self._layer(blocks, layer)(x, None, None, shared)
    x = make_norm(self, "norm")(x)
    return class_head(
      self, jnp.concatenate([jnp.mean(x, 1), jnp.max(x, 1)], -1)
    ), ()

  def _tokens(self, points: jax.Array, centers: jax.Array) -> jax.Array:
    """The tokens [B, G, D] of all groups."""

    def dense(name: str, features: int, x: jax.Array) -> jax.Array:
      return projection(self, features, name, use_bias=True)(x)

    near = take(points, nearest_points(points, centers, self.neighbors))
    gaps = (near - centers[:, :, None]).astype(self.dtype)
    half = max(self.width // 2, 1)
    own = dense("point_out", half, nn.silu(dense("point", half, gaps)))
    most = jnp.broadcast_to(jnp.max(own, 2, keepdims=True), own.shape)
    both = jnp.concatenate([own, most], -1)
    hidden = nn.silu(dense("group", self.width, both))
    tokens = jnp.max(dense("group_out", self.width, hidden), 2)
    place = nn.silu(dense("place", self.width, centers.astype(self.dtype)))
    tokens = tokens + dense("place_out", self.width, place)
    return tokens.astype(wide(self.dtype))


def checked_points(
  model: Backbone,
  x: jax.Array,
  state: State,
  segment_ids: jax.Array | None,
) -> jax.Array:
  """Points [B, N, 3] of a model of clouds, in float32 or wider."""
  name = type(model).__name__
  checks.require(
    state is None and segment_ids is None,
    f"{name}: clouds have no state and no segment_ids; give one cloud per row",
  )
  checks.require(
    model.axis_name is None and not model.scan_layers,
    f"{name}: clouds cannot be sharded along their points, and their layers "
    "are not scanned: leave axis_name and scan_layers as they are",
  )
  checks.shape(name, "x", x, (None, None, 3), "[B, N, 3]")
  checks.dtype(name, "x", x, jnp.floating, "real floating point")
  return x.astype(wide(model.dtype))
