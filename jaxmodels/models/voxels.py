"""Point clouds as voxels: a linear group RNN over windows, as in LION."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import LayerNorm
from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.layers.point_groups import normalize_cloud, take
from jaxmodels.layers.voxels import (
  mean_by_slot,
  neighbor_slots,
  occupied,
  voxel_numbers,
  window_order,
)
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.models.block import make_norm
from jaxmodels.models.classifier import class_head
from jaxmodels.models.points import checked_points

__all__ = ["SpatialDescriptor", "VoxelClassifier"]


class SpatialDescriptor(nn.Module):
  """y = GELU(LayerNorm(W x)): a 3 x 3 x 3 convolution at occupied voxels.

  It is the submanifold convolution of Graham & van der Maaten 2017,
  arXiv:1706.01307: empty voxels are zeros, and have no output. LION puts it
  beside its RNN, whose order loses which voxels are neighbours in space.

  Attributes:
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, neighbors: jax.Array) -> jax.Array:
    """Convolves x [B, V, D] over the slots [B, V, 27] of `neighbor_slots`."""
    width, x = x.shape[-1], x.astype(self.dtype)
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))  # The voxel of no slot.
    around = take(padded, neighbors).reshape((*x.shape[:2], 27 * width))
    y = projection(self, width, "kernel")(around)
    norm = LayerNorm(
      dtype=self.dtype, param_dtype=self.param_dtype, name="norm"
    )
    return nn.gelu(norm(y))


class VoxelClassifier(Backbone, kw_only=True):
  """The class of a cloud, or of each of its points, from voxels: LION.

  The cube [-1, 1]^3 has `side`^3 voxels. With p_n the points, v_n their voxels
  and z_n the position of p_n in the cube and in its voxel,

    e_n = W_2 SiLU(W_1 z_n),  x_v = mean_{n: v_n = v} e_n

  are the tokens. Only occupied voxels are tokens. Layer i of the stack reads
  them in the order of `window_order` along x (i even) or y (i odd), cut into
  groups of `group_size` across the windows, and each group is a sequence of its
  own: a linear RNN in a layer is LION's linear group RNN. After each pair of
  layers, and after the last one,

    x = x + SpatialDescriptor(x)

  The logits are a dense map of [mean_v x_v, max_v x_v] of a cloud, or of the
  hidden layer SiLU(W_3 [x_{v_n}, e_n]) of each point. It is a `Backbone`
  between the two, so its other fields are those of `Backbone`.

  Liu et al. 2024, "LION: Linear Group RNN for 3D Object Detection in Point
  Clouds", arXiv:2407.18232. Departures: one resolution, where LION merges and
  expands voxels; no voxels are generated; the last group is shorter, where
  theirs repeats voxels of the group before; RMSNorm. The outputs do not depend
  on the order of the points.

  Attributes:
    classes: The number of classes.
    side: The number of voxels along a side of the cube.
    window: The number of voxels along a side of a window.
    group_size: The number of voxels per group.
    per_point: Whether each point has a class.
    normalize: Whether clouds are moved and scaled to a ball of radius 1.
      Otherwise points outside of the cube count to the voxels at its border.
  """

  classes: int
  side: int = 12
  window: int = 4
  group_size: int = 64
  per_point: bool = False
  normalize: bool = True

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Classifies clouds or points.

    Args:
      x: Points [B, N, 3], real floating point.
      state: None: clouds have no state.
      segment_ids: None: one cloud per row.

    Returns:
      Logits [B, classes], or [B, N, classes] with `per_point`, in float32 or
      wider, and ().

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    check_fields(self, "classes", "side", "window", "group_size")
    points = checked_points(self, x, state, segment_ids)
    if self.normalize:
      points = normalize_cloud(points)
    voxels, slots = occupied(voxel_numbers(points, self.side), self.side)
    own = self._embedded(points)
    x = mean_by_slot(own.astype(wide(self.dtype)), slots, voxels.shape[1])
    x = self._stack(x, voxels)
    if self.per_point:
      both = jnp.concatenate([take(x, slots), own], -1)
      hidden = projection(self, self.width, "hidden", use_bias=True)(both)
      return class_head(self, nn.silu(hidden)), ()
    full = (voxels < self.side**3)[..., None]
    mean = jnp.mean(x, 1, where=full)
    most = jnp.max(jnp.where(full, x, -jnp.inf), 1)
    return class_head(self, jnp.concatenate([mean, most], -1)), ()

  def _embedded(self, points: jax.Array) -> jax.Array:
    """The features e_n of the points, [B, N, D]."""
    places = (points + 1) * (self.side / 2)
    # From -1 to 1 in a voxel.
    inside = 2 * (places - jnp.floor(places)) - 1
    z = jnp.concatenate([points, inside], -1).astype(self.dtype)
    hidden = nn.silu(projection(self, self.width, "point", use_bias=True)(z))
    return projection(self, self.width, "point_out", use_bias=True)(hidden)

  def _stack(self, x: jax.Array, voxels: jax.Array) -> jax.Array:
    """The layers on voxels x [B, V, D], and the norm at the end."""
    batch, size, _ = x.shape
    group = min(self.group_size, size)
    short = -size % group
    orders = [
      window_order(voxels, self.side, self.window, axis) for axis in (0, 1)
    ]
    near = neighbor_slots(voxels, self.side)
    blocks = self.pattern()
    shared = self._initial_shared(blocks, x)

    def grouped(a: jax.Array, order: jax.Array) -> jax.Array:
      if a.ndim < 3 or a.shape[:2] != (batch, size):
        return a  # A shared value that does not belong to voxels.
      rest = a.shape[2:]
      a = take(a.reshape((batch, size, -1)), order)
      a = jnp.pad(a, ((0, 0), (0, short), (0, 0)))
      return a.reshape((-1, group, *rest))

    def spread(a: jax.Array, order: jax.Array) -> jax.Array:
      if a.ndim < 3 or a.shape[1] != group:
        return a
      rest = a.shape[2:]
      a = a.reshape((batch, size + short, -1))
      a = take(a, jnp.argsort(order, axis=1))
      return a.reshape((batch, size, *rest))

    # Empty slots are a segment of their own, which no voxel reads.
    empty = (voxels == self.side**3).astype(jnp.int32)
    for layer in range(self.depth):
      order = orders[layer % 2]
      ids = jnp.pad(
        take(empty[..., None], order)[..., 0],
        ((0, 0), (0, short)),
        constant_values=1,
      ).reshape((-1, group))
      inputs = jax.tree.map(lambda a, o=order: grouped(a, o), (x, shared))
      y, _, shared = self._layer(blocks, layer)(inputs[0], None, ids, inputs[1])
      x, shared = jax.tree.map(lambda a, o=order: spread(a, o), (y, shared))
      if layer % 2 or layer == self.depth - 1:
        descriptor = SpatialDescriptor(
          dtype=self.dtype,
          param_dtype=self.param_dtype,
          name=f"descriptor_{layer // 2}",
        )
        x = x + descriptor(x, near).astype(x.dtype)
    return make_norm(self, "norm")(x)
