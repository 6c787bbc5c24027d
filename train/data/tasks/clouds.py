"""Clouds of points on analytic surfaces: one surface, or scenes of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from train.data.dataset import Example, check_at_least
from train.data.tasks.drawn import DrawnTask

__all__ = ["SURFACES", "SceneClouds", "ShapeClouds", "rotation", "surface"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapeClouds(DrawnTask):
  """Which surface are the points of a cloud on?

  The surfaces are those of `SURFACES`, in proportions that are drawn for each
  cloud. The points are uniform over the area. The surface is stretched along
  its three axes, turned by a random rotation, scaled and moved, and each
  coordinate gets normal noise.

  An example has "inputs" [points, 3] and "targets", the number of the surface.

  Attributes:
    points: The number of points of a cloud.
    kinds: The number of classes: the first ones of `SURFACES`.
    upright: Whether surfaces are turned about the vertical axis z alone.
    stretch: The largest factor of an axis, at least 1; the smallest is
      1 / stretch.
    noise: The deviation of the noise, in radii of the cloud.
  """

  points: int = 256
  kinds: int = 10
  upright: bool = False
  stretch: float = 1.5
  noise: float = 0.04

  def check(self) -> None:
    """See `DrawnTask.check`."""
    check_at_least(1, points=self.points)
    _check_shape(self)

  def row(self, rng: np.random.Generator) -> Example:
    """See `DrawnTask.row`."""
    kind = int(rng.integers(self.kinds))
    x = _placed(self, rng, kind, self.points)
    x = x * rng.uniform(0.5, 2) + rng.normal(size=3)
    x = _noisy(rng, x, self.noise)
    return {"inputs": x.astype(np.float32), "targets": np.int32(kind)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneClouds(DrawnTask):
  """Which surface is each point of a scene on?

  A scene has several surfaces of `SURFACES` with equally many points, each
  drawn as in `ShapeClouds` and with its center in the cube [-1, 1]^3, so they
  may touch and overlap.

  An example has "inputs" [points, 3] and "targets" [points], the number of the
  surface of each point. The points are in random order.

  Attributes:
    points: The number of points of a scene, a multiple of `shapes`.
    shapes: The number of surfaces of a scene.
    kinds: As in `ShapeClouds`.
    upright: As in `ShapeClouds`.
    stretch: As in `ShapeClouds`.
    noise: The deviation of the noise, in radii of a surface.
  """

  points: int = 512
  shapes: int = 3
  kinds: int = 10
  upright: bool = False
  stretch: float = 1.25
  noise: float = 0.02

  def check(self) -> None:
    """See `DrawnTask.check`."""
    check_at_least(1, points=self.points, shapes=self.shapes)
    if self.points % self.shapes:
      raise ValueError(
        f"points must be a multiple of shapes = {self.shapes}, got "
        f"{self.points}"
      )
    _check_shape(self)

  def row(self, rng: np.random.Generator) -> Example:
    """See `DrawnTask.row`."""
    each = self.points // self.shapes
    kinds = rng.integers(self.kinds, size=self.shapes)
    parts = []
    for kind in kinds:
      x = _placed(self, rng, int(kind), each)
      x = x * rng.uniform(0.4, 0.7) + rng.uniform(-1, 1, 3)
      parts.append(_noisy(rng, x, self.noise))
    order = rng.permutation(self.points)
    targets = np.repeat(kinds, each)[order]
    return {
      "inputs": np.concatenate(parts)[order].astype(np.float32),
      "targets": targets.astype(np.int32),
    }


def surface(rng: np.random.Generator, kind: int, points: int) -> np.ndarray:
  """Points [points, 3] on surface `kind`, uniform over its area.

  Args:
    rng: The source of randomness, also of the proportions of the surface.
    kind: A number below `len(SURFACES)`.
    points: The number of points.
  """
  return SURFACES[kind][1](rng, points)


def rotation(rng: np.random.Generator, upright: bool) -> np.ndarray:
  """A uniformly random rotation [3, 3], of a random unit quaternion.

  Args:
    rng: The source of randomness.
    upright: Whether its axis is the vertical z.
  """
  q = rng.normal(size=4)
  if upright:
    q[1:3] = 0
  w, x, y, z = q / np.linalg.norm(q)
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _check_shape(task: ShapeClouds | SceneClouds) -> None:
  if not 1 <= task.kinds <= len(SURFACES):
    raise ValueError(
      f"kinds must be from 1 to {len(SURFACES)}, got {task.kinds}"
    )
  if not 1 <= task.stretch < np.inf:
    raise ValueError(
      f"stretch must be at least 1 and finite, got {task.stretch}"
    )
  if not 0 <= task.noise < np.inf:
    raise ValueError(f"noise must be at least 0 and finite, got {task.noise}")


def _placed(
  task: ShapeClouds | SceneClouds,
  rng: np.random.Generator,
  kind: int,
  points: int,
) -> np.ndarray:
  """A stretched and turned surface, with its centroid at 0 and radius 1."""
  x = surface(rng, kind, points)
  x = x * task.stretch ** rng.uniform(-1, 1, 3)
  x = x @ rotation(rng, task.upright)
  x = x - x.mean(0)
  return x / np.linalg.norm(x, axis=1).max()


def _noisy(rng: np.random.Generator, x: np.ndarray, noise: float) -> np.ndarray:
  radius = np.linalg.norm(x - x.mean(0), axis=1).max()
  return x + noise * radius * rng.normal(size=x.shape)


Sampler = Callable[[np.random.Generator, int], np.ndarray]


def _circle(angle: np.ndarray) -> np.ndarray:
  return np.stack([np.cos(angle), np.sin(angle)], -1)


def _by_area(
  rng: np.random.Generator,
  points: int,
  place: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
  """Points of a surface place(u, v), u and v in [0, 1], uniform over its area.

  Candidates are chosen with probabilities in proportion to the area
  |place_u x place_v|, by finite differences.
  """
  u, v = rng.uniform(size=(2, 8 * points))
  here, step = place(u, v), 1e-4
  area = np.linalg.norm(
    np.cross(place(u + step, v) - here, place(u, v + step) - here), axis=1
  )
  return here[rng.choice(len(u), points, p=area / area.sum())]


def _sphere(rng: np.random.Generator, points: int) -> np.ndarray:
  x = rng.normal(size=(points, 3))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _cube(rng: np.random.Generator, points: int) -> np.ndarray:
  x = rng.uniform(-1, 1, (points, 3))
  x[np.arange(points), rng.integers(3, size=points)] = rng.choice(
    [-1, 1], points
  )
  return x


def _tetrahedron(rng: np.random.Generator, points: int) -> np.ndarray:
  corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
  shares = rng.dirichlet(np.ones(3), points)
  faces = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
  chosen = corners[faces[rng.integers(4, size=points)]]
  return np.einsum("nk,nkd->nd", shares, chosen)


def _disk(rng: np.random.Generator, points: int) -> np.ndarray:
  """A disk of radius 1 at z = 0."""
  x = np.sqrt(rng.uniform(size=(points, 1)))
  flat = x * _circle(rng.uniform(0, 2 * np.pi, points))
  return np.pad(flat, ((0, 0), (0, 1)))


def _cylinder(rng: np.random.Generator, points: int) -> np.ndarray:
  height = rng.uniform(1.5, 3)
  z = rng.uniform(0, height, (points, 1))
  side = np.hstack([_circle(rng.uniform(0, 2 * np.pi, points)), z])
  caps = _disk(rng, points)
  caps[:, 2] = height * rng.integers(2, size=points)
  on_side = rng.uniform(size=points) < height / (height + 1)
  return np.where(on_side[:, None], side, caps)


def _cone(rng: np.random.Generator, points: int) -> np.ndarray:
  height = rng.uniform(1.5, 3)
  side = _disk(rng, points)
  side[:, 2] = height * (1 - np.hypot(side[:, 0], side[:, 1]))
  slope = np.hypot(1, height)
  on_side = rng.uniform(size=points) < slope / (slope + 1)
  return np.where(on_side[:, None], side, _disk(rng, points))


def _tube(
  path: Callable[[np.ndarray], np.ndarray], radius: float
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """The tube of a radius around a path [n] to [n, 3], not vertical."""

  def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    center, step = path(u), 1e-4
    along = path(u + step) - path(u - step)
    across = np.cross(along, [0.0, 0.0, 1.0])
    up = np.cross(across, along)
    across, up = (
      a / np.linalg.norm(a, axis=1, keepdims=True) for a in (across, up)
    )
    turn = _circle(2 * np.pi * v)
    return center + radius * (turn[:, :1] * across + turn[:, 1:] * up)

  return place


def _torus(rng: np.random.Generator, points: int) -> np.ndarray:
  def path(u: np.ndarray) -> np.ndarray:
    return np.pad(_circle(2 * np.pi * u), ((0, 0), (0, 1)))

  return _by_area(rng, points, _tube(path, rng.uniform(0.2, 0.5)))


def _helix(rng: np.random.Generator, points: int) -> np.ndarray:
  turns, height = rng.uniform(1.5, 3), rng.uniform(1.5, 3)

  def path(u: np.ndarray) -> np.ndarray:
    return np.hstack([_circle(2 * np.pi * turns * u), height * u[:, None]])

  return _by_area(rng, points, _tube(path, rng.uniform(0.1, 0.25)))


def _saddle(rng: np.random.Generator, points: int) -> np.ndarray:
  depth = rng.uniform(0.5, 1)

  def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = 2 * u - 1, 2 * v - 1
    return np.stack([x, y, depth * (x**2 - y**2)], -1)

  return _by_area(rng, points, place)


def _moebius(rng: np.random.Generator, points: int) -> np.ndarray:
  half = rng.uniform(0.3, 0.6)

  def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angle, across = 2 * np.pi * u, half * (2 * v - 1)
    radius = 1 + across * np.cos(angle / 2)
    flat = radius[:, None] * _circle(angle)
    return np.hstack([flat, (across * np.sin(angle / 2))[:, None]])

  return _by_area(rng, points, place)


def _bowl(rng: np.random.Generator, points: int) -> np.ndarray:
  depth = rng.uniform(0.7, 1.5)

  def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hstack(
      [u[:, None] * _circle(2 * np.pi * v), depth * u[:, None] ** 2]
    )

  return _by_area(rng, points, place)


# Names, and what draws points of each surface.
SURFACES: tuple[tuple[str, Sampler], ...] = (
  ("sphere", _sphere),
  ("cube", _cube),
  ("tetrahedron", _tetrahedron),
  ("cylinder", _cylinder),
  ("cone", _cone),
  ("torus", _torus),
  ("helix tube", _helix),
  ("saddle", _saddle),
  ("Moebius strip", _moebius),
  ("bowl", _bowl),
)
