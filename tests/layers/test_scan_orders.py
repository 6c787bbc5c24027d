"""Orders of the places of a grid: permutations with known neighbours."""

import numpy as np
import pytest

from jaxmodels.layers.scan_orders import (
  CURVES,
  DIRECTIONS,
  inverse,
  scan_order,
)

SHAPES = ((1, 1), (1, 5), (4, 1), (3, 5), (6, 4), (8, 8), (16, 16))


def square(shape):
  return shape[0] == shape[1] and shape[0] & (shape[0] - 1) == 0


CASES = [
  (curve, *shape)
  for curve in CURVES
  for shape in SHAPES
  if curve != "hilbert" or square(shape)
]


@pytest.mark.parametrize(("curve", "height", "width"), CASES)
def test_every_order_visits_each_place_once_and_decodes_back(
  curve, height, width
):
  image = np.random.default_rng(0).normal(size=height * width)
  for direction in range(DIRECTIONS):
    order = scan_order(curve, height, width, direction)
    assert sorted(order) == list(range(height * width))
    np.testing.assert_array_equal(image[order][inverse(order)], image)


@pytest.mark.parametrize(("curve", "height", "width"), CASES)
def test_a_direction_is_the_curve_on_a_turned_or_mirrored_image(
  curve, height, width
):
  image = np.arange(height * width).reshape(height, width)
  views = (image, image.T, np.rot90(image, 3), image[:, ::-1])
  for v, view in enumerate(views):
    ahead, back = (scan_order(curve, height, width, 2 * v + r) for r in (0, 1))
    wanted = view.ravel()[scan_order(curve, *view.shape)]
    np.testing.assert_array_equal(ahead, wanted)
    np.testing.assert_array_equal(back, wanted[::-1])


@pytest.mark.parametrize("curve", ["snake", "hilbert"])
def test_each_step_goes_to_a_neighbour(curve):
  for own, height, width in CASES:
    for direction in range(DIRECTIONS) if own == curve else ():
      order = scan_order(curve, height, width, direction)
      rows, columns = np.divmod(order, width)
      steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
      np.testing.assert_array_equal(steps, 1)


def test_hilbert_and_z_order_leave_a_quadrant_when_all_of_it_is_visited():
  for curve in ("hilbert", "z_order"):
    rows, columns = np.divmod(scan_order(curve, 16, 16), 16)
    for side in (2, 4, 8):
      squares = rows // side * 16 + columns // side
      assert np.count_nonzero(np.diff(squares)) == (16 // side) ** 2 - 1


@pytest.mark.parametrize("shape", [(8, 8), (5, 3), (2, 9)])
def test_z_order_sorts_by_interleaved_bits(shape):
  def code(place):
    row, column = (f"{x:04b}" for x in divmod(place, shape[1]))
    return "".join(a + b for a, b in zip(row, column, strict=True))

  wanted = sorted(range(shape[0] * shape[1]), key=code)
  np.testing.assert_array_equal(scan_order("z_order", *shape), wanted)


def test_zigzag_is_the_order_of_jpeg():
  """The order of ITU-T T.81, figure A.6, whose first step is to the right."""
  order = scan_order("zigzag", 8, 8)
  assert order[:10].tolist() == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
  assert order[-4:].tolist() == [47, 55, 62, 63]


def test_the_first_four_sweeps_are_the_cross_scan():
  rows, columns = np.arange(6), np.arange(6).reshape(2, 3).T.ravel()
  wanted = [rows, rows[::-1], columns, columns[::-1]]
  for direction, order in enumerate(wanted):
    np.testing.assert_array_equal(scan_order("sweep", 2, 3, direction), order)


@pytest.mark.parametrize("curve", CURVES)
def test_eight_directions_are_all_symmetries_of_the_square(curve):
  image = np.arange(64).reshape(8, 8)
  eight = {tuple(scan_order(curve, 8, 8, d)) for d in range(DIRECTIONS)}
  first = scan_order(curve, 8, 8)
  turns = [np.rot90(view, k) for view in (image, image.T) for k in range(4)]
  assert eight == {tuple(turn.ravel()[first]) for turn in turns}
  assert len(eight) == DIRECTIONS


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    (("spiral", 2, 2), "curve must be one of sweep, .* got 'spiral'"),
    (("sweep", 0, 2), "height must be at least 1, got 0"),
    (("sweep", 2, 2, 8), "direction must be from 0 to 7, got 8"),
    (("hilbert", 4, 8), "square grid .* got 4 x 8: use 'snake'"),
    (("hilbert", 6, 6), "power of two, got 6 x 6"),
  ],
)
def test_the_error_names_what_is_wrong(arguments, match):
  with pytest.raises(ValueError, match=match):
    scan_order(*arguments)
