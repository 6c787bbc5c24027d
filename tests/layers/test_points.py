"""Groups of points and voxels beside loops over all points."""

import itertools

import jax
import numpy as np
import pytest

from jaxmodels.layers import point_groups, voxels

RNG = np.random.default_rng(0)
CLOUDS = RNG.normal(size=(2, 40, 3)).astype(np.float32)


def gap(a, b):
  return np.sum((a.astype(np.float64) - b) ** 2, -1)


def test_farthest_points_are_those_of_a_loop():
  found = jax.jit(point_groups.farthest_points, static_argnums=1)(CLOUDS, 12)
  for cloud, indices in zip(CLOUDS, np.asarray(found), strict=True):
    chosen = [int(np.argmax(gap(cloud, cloud.mean(0))))]
    while len(chosen) < 12:
      nearest = [min(gap(p, cloud[c]) for c in chosen) for p in cloud]
      chosen.append(int(np.argmax(nearest)))
    assert indices.tolist() == chosen


def test_nearest_points_are_sorted_distances():
  centers = CLOUDS[:, :5]
  nearest = jax.jit(point_groups.nearest_points, static_argnums=2)
  found = np.asarray(nearest(CLOUDS, centers, 7))
  for b, g in np.ndindex(2, 5):
    order = np.argsort(gap(CLOUDS[b], centers[b, g]), kind="stable")
    assert found[b, g].tolist() == order[:7].tolist()
    assert found[b, g, 0] == g  # A point is its own neighbour.


def test_all_points_are_farthest_points_once():
  found = jax.jit(point_groups.farthest_points, static_argnums=1)(CLOUDS, 40)
  assert np.array_equal(np.sort(found, 1), np.tile(np.arange(40), (2, 1)))


def test_normalized_clouds_have_no_place_and_no_size():
  normalize = jax.jit(point_groups.normalize_cloud)
  clouds = np.stack([CLOUDS[0], 7 * CLOUDS[0] - 4])
  one, other = normalize(clouds)
  np.testing.assert_allclose(one, other, atol=1e-5)
  np.testing.assert_allclose(one.mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(one, axis=1).max(), 1, rtol=1e-6)
  assert np.all(normalize(np.ones_like(clouds)) == 0)


def listed(side=4):
  """The voxels of clouds, and the slots of their points."""
  points = np.clip(0.5 * CLOUDS, -1.2, 1.2)

  def both(points):
    return voxels.occupied(voxels.voxel_numbers(points, side), side)

  return points, *map(np.asarray, jax.jit(both)(points))


def test_occupied_voxels_are_those_with_points():
  points, found, slots = listed()
  places = np.clip(np.floor((points + 1) * 2), 0, 3).astype(int)
  numbers = places @ [16, 4, 1]
  for b in range(2):
    own = np.unique(numbers[b])
    assert found[b].tolist() == own.tolist() + [64] * (40 - len(own))
    assert np.array_equal(found[b][slots[b]], numbers[b])


@pytest.mark.parametrize(("axis", "window"), [(0, 2), (1, 2), (1, 3)])
def test_windows_are_in_the_order_of_a_sort(axis, window):
  _, found, _ = listed()
  orders = jax.jit(voxels.window_order, static_argnums=(1, 2, 3))(
    found, 4, window, axis
  )
  for own, order in zip(found, np.asarray(orders), strict=True):

    def key(slot, own=own):
      number = int(own[slot])
      x, y, z = number // 16, number // 4 % 4, number % 4
      places = (x, y, z) if axis == 0 else (y, x, z)
      inner = [p % window for p in places]
      return [number == 64, *[p // window for p in places], *inner]

    filled = int(np.sum(own < 64))
    wanted = sorted(range(filled), key=key)
    assert order[:filled].tolist() == wanted
    assert sorted(order.tolist()) == list(range(40))


def test_neighbours_are_one_voxel_away():
  _, found, _ = listed()
  around = np.asarray(
    jax.jit(voxels.neighbor_slots, static_argnums=1)(found, 4)
  )
  offsets = list(itertools.product((-1, 0, 1), repeat=3))
  for b in range(2):
    places = {
      (int(v) // 16, int(v) // 4 % 4, int(v) % 4): n
      for n, v in enumerate(found[b])
      if v < 64
    }
    for place, n in places.items():
      wanted = [
        places.get(tuple(np.add(place, offset)), 40) for offset in offsets
      ]
      assert around[b, n].tolist() == wanted
    assert np.all(around[b, len(places) :] == 40)


def test_mistakes_are_named():
  with pytest.raises(
    ValueError, match=r"count must be from 1 to 40, .* got 41"
  ):
    point_groups.farthest_points(CLOUDS, 41)
  with pytest.raises(ValueError, match=r"points must be \[B, N, 3\]"):
    point_groups.nearest_points(CLOUDS[0], CLOUDS, 3)
  with pytest.raises(ValueError, match="axis must be 0 or 1, got 2"):
    voxels.window_order(np.zeros((1, 3), np.int32), 4, 2, 2)
