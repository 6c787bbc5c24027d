"""Clouds on surfaces and mixtures of voices, beside their definitions."""

import dataclasses

import numpy as np
import pytest

from train.data.tasks import SceneClouds, ShapeClouds, VoiceMixtures
from train.data.tasks.clouds import SURFACES, rotation, surface
from train.data.tasks.voices import voice

NAMES = [name for name, _ in SURFACES]
TASKS = (
  ShapeClouds(points=32),
  SceneClouds(points=30),
  VoiceMixtures(samples=300),
)


def points_of(name, seed=0, count=400):
  rng = np.random.default_rng(seed)
  return surface(rng, NAMES.index(name), count)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_an_example_depends_on_its_number_and_split_alone(task):
  one = task.open("train")[7]
  again = dataclasses.replace(task, train_examples=9).open("train")[7]
  for name, array in one.items():
    np.testing.assert_array_equal(array, again[name])
  other = task.open("validation")[7]
  assert np.any(one["inputs"] != other["inputs"])


def test_points_are_on_their_surfaces():
  x, y, z = points_of("sphere").T
  np.testing.assert_allclose(x**2 + y**2 + z**2, 1)
  np.testing.assert_allclose(np.abs(points_of("cube")).max(1), 1)
  # The four faces of the tetrahedron are at a distance of 1 / sqrt(3).
  normals = np.array([[-1, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
  np.testing.assert_allclose((points_of("tetrahedron") @ normals.T).max(1), 1)
  x, y, z = points_of("torus").T
  tube = np.hypot(np.hypot(x, y) - 1, z)
  np.testing.assert_allclose(tube, tube[0], rtol=1e-4)
  x, y, z = points_of("saddle").T
  np.testing.assert_allclose(z, z[0] / (x[0] ** 2 - y[0] ** 2) * (x**2 - y**2))
  x, y, z = points_of("bowl").T
  np.testing.assert_allclose(
    z, z[0] / np.hypot(x[0], y[0]) ** 2 * (x**2 + y**2)
  )
  x, y, z = points_of("Moebius strip").T
  angle = np.arctan2(y, x) % (2 * np.pi)
  across = (np.hypot(x, y) - 1) * np.sin(angle / 2)
  np.testing.assert_allclose(across, z * np.cos(angle / 2), atol=1e-9)


def test_points_are_uniform_over_the_area():
  # Archimedes: a coordinate of a sphere is uniform; so is the height of the
  # side of a cylinder.
  x = points_of("sphere", count=4000)
  np.testing.assert_allclose(np.var(x, 0), 1 / 3, rtol=0.08)
  # A torus has more area outside: E radius = 1 + r^2 / 2.
  x, y, z = points_of("torus", count=20_000).T
  radius = np.hypot(x, y)
  tube = np.hypot(radius[0] - 1, z[0])
  np.testing.assert_allclose(radius.mean(), 1 + tube**2 / 2, atol=0.01)


def test_rotations_are_rotations():
  rng = np.random.default_rng(0)
  for upright in (False, True):
    turns = np.stack([rotation(rng, upright) for _ in range(2000)])
    products = turns @ turns.transpose(0, 2, 1)
    np.testing.assert_allclose(products - np.eye(3), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    # All directions are alike; upright ones keep the vertical.
    wanted = np.diag([0, 0, 1]) if upright else np.zeros((3, 3))
    np.testing.assert_allclose(turns.mean(0), wanted, atol=0.06)


def test_clouds_have_all_surfaces_and_scenes_several():
  shapes = TASKS[0].open("train")
  assert {int(shapes[i]["targets"]) for i in range(100)} == set(range(10))
  scene = TASKS[1].open("train")[0]
  assert scene["inputs"].shape == (30, 3)
  _, counts = np.unique(scene["targets"], return_counts=True)
  assert np.all(counts % 10 == 0)


def test_a_mixture_is_the_sum_of_its_voices():
  example = VoiceMixtures(samples=1000).open("validation")[0]
  np.testing.assert_allclose(
    example["inputs"], example["targets"].sum(0), atol=1e-5
  )
  np.testing.assert_allclose(np.mean(example["inputs"] ** 2), 1, rtol=1e-4)


def test_the_power_of_a_voice_is_at_the_harmonics_of_its_pitch():
  """Near multiples of 200 Hz is more power than between them."""
  x = voice(np.random.default_rng(0), 200, 8192, 4000)
  parts = np.reshape(x, (-1, 512)) * np.hanning(512)
  power = np.sum(np.abs(np.fft.rfft(parts)) ** 2, 0)
  frequency = np.fft.rfftfreq(512, 1 / 4000)
  # The pitch moves by 18% at most, and falls slowly.
  place = frequency[frequency < 420] / 200
  near = np.abs(place - np.round(place)) < 0.25
  power = power[frequency < 420]
  assert power[near & (place > 0.5)].mean() > 5 * power[~near].mean()


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="points must be a multiple of shapes"):
    SceneClouds(points=31).open("train")
  with pytest.raises(ValueError, match="kinds must be from 1 to 10, got 11"):
    ShapeClouds(kinds=11).open("train")
  with pytest.raises(ValueError, match="stretch must be at least 1"):
    ShapeClouds(stretch=0.5).open("train")
  with pytest.raises(ValueError, match="rate must be at least 4000"):
    VoiceMixtures(rate=100).open("train")
