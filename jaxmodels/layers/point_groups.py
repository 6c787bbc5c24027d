"""Groups of the points of clouds: farthest points and nearest neighbours.

The choices depend on distances alone. So with the points in another order, and
after a rotation or a translation, they are the same points, as long as no two
distances are equal up to rounding.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks

__all__ = ["farthest_points", "nearest_points", "normalize_cloud", "take"]


def normalize_cloud(points: jax.Array) -> jax.Array:
  """Moves the centroid of points [B, N, 3] to 0, and scales the radius to 1.

  The radius is the largest distance to the centroid. A cloud whose points are
  all equal becomes zeros.
  """
  x = points - jnp.mean(points, 1, keepdims=True)
  square = jnp.max(jnp.sum(x * x, -1, keepdims=True), 1, keepdims=True)
  return x * lax.rsqrt(jnp.where(square > 0, square, 1))


def farthest_points(points: jax.Array, count: int) -> jax.Array:
  """Farthest point sampling: points that are far from one another.

  The first point is the one farthest from the centroid. Each next one is the
  point whose distance to the nearest chosen point is the largest (Gonzalez
  1985; Qi et al. 2017, "PointNet++", arXiv:1706.02413, which starts from a
  random point). Of equal distances the first point wins.

  Cost: 8 N count flops per cloud, in `count` steps.

  Args:
    points: [B, N, 3].
    count: The number of points to choose, from 1 to N.

  Returns:
    Indices [B, count], int32, in the order of the choice.

  Raises:
    ValueError: An argument is wrong; the message names it in one line.
  """
  _check("farthest_points", points, count, "count")
  start = jnp.mean(points, 1)
  far = jnp.full(points.shape[:2], jnp.inf, points.dtype)

  def choose(carry, step):
    far, center = carry
    gap = jnp.sum(jnp.square(points - center[:, None]), -1)
    # The centroid is where the choice starts, and is not itself chosen.
    nearest = jnp.where(step == 1, gap, jnp.minimum(far, gap))
    index = jnp.argmax(jnp.where(step == 0, gap, nearest), 1).astype(jnp.int32)
    center = jnp.take_along_axis(points, index[:, None, None], 1)[:, 0]
    return (nearest, center), index

  _, indices = lax.scan(choose, (far, start), jnp.arange(count))
  return indices.T


def nearest_points(
  points: jax.Array, centers: jax.Array, count: int
) -> jax.Array:
  """The points nearest to each center, the nearest first.

  Of equal distances the first point wins. Cost: 8 G N flops per cloud.

  Args:
    points: [B, N, 3].
    centers: [B, G, 3].
    count: The number of neighbours K per center, from 1 to N. A center that is
      one of the points is its own neighbour.

  Returns:
    Indices [B, G, K], int32.

  Raises:
    ValueError: An argument is wrong; the message names it in one line.
  """
  _check("nearest_points", points, count, "count")
  # Differences, because |a|^2 - 2 a.b + |b|^2 rounds away small distances.
  gaps = points[:, None] - centers[:, :, None]
  return lax.top_k(-jnp.sum(gaps * gaps, -1), count)[1]


def take(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Rows of x [B, N, C] at indices [B, ...], as [B, ..., C]."""
  flat = indices.reshape((indices.shape[0], -1, 1))
  found = jnp.take_along_axis(x, flat, 1, mode="clip")
  return found.reshape((*indices.shape, x.shape[-1]))


def _check(op: str, points: jax.Array, count: int, name: str) -> None:
  checks.shape(op, "points", points, (None, None, 3), "[B, N, 3]")
  checks.require(
    1 <= count <= points.shape[1],
    f"{op}: {name} must be from 1 to {points.shape[1]}, the number of points, "
    f"got {count}",
  )
