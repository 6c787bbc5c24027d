"""Mixers for images, on grids: their equations, and turned images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.scan_orders import DIRECTIONS, scan_order
from jaxmodels.mixers import GLA, CrossScan, SelectiveScan2D, ViG
from jaxmodels.testing.examples.mixers import cross_scan, vig

WIDTH, SIDE = 8, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, SIDE * SIDE, WIDTH)).astype(np.float32)
INNER = GLA(WIDTH, heads=2, gate_rank=2)


def drawn(layer):
  params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.2 * rng.normal(size=p.shape).astype(p.dtype), params
  )


def run(layer, params, x):
  return np.asarray(jax.jit(layer.apply)({"params": params}, x)[0])


def turned(x, symmetry):
  """Images [B, L, D] after one of numpy's symmetries of two axes."""
  grid = np.asarray(x).reshape(-1, SIDE, SIDE, x.shape[-1])
  return symmetry(grid).reshape(x.shape)


def quarter(grid):
  return np.rot90(grid, axes=(1, 2))


def mirror(grid):
  return grid[:, :, ::-1]


LAYERS = {
  "hilbert": (
    CrossScan(WIDTH, mixer=INNER, columns=SIDE, curve="hilbert", directions=8),
    cross_scan.plain,
  ),
  "vmamba": (
    SelectiveScan2D(WIDTH, columns=SIDE, expand=1, state_width=4),
    cross_scan.plain_2d,
  ),
  "vig": (ViG(WIDTH, columns=SIDE, gate_rank=2), vig.plain),
}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name == "vmamba" else pytest.mark.slow)
    for name in LAYERS
  ],
)
def test_images_follow_the_equation(name):
  layer, plain = LAYERS[name]
  params = drawn(layer)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  wanted = np.stack([plain(exact, x.astype(np.float64), layer) for x in X])
  got = run(layer, params, X)
  np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())
  # Two images in one row of the batch do not see each other.
  pair = run(layer.clone(rows=SIDE), params, X.reshape(1, -1, WIDTH))
  np.testing.assert_allclose(
    pair.reshape(X.shape), wanted, atol=2e-5 * np.abs(wanted).max()
  )


@pytest.mark.parametrize(
  ("curve", "directions"),
  [
    ("hilbert", 8),
    pytest.param("sweep", 4, marks=pytest.mark.slow),
    *[
      pytest.param(curve, 8, marks=pytest.mark.slow)
      for curve in ("sweep", "snake", "zigzag", "z_order")
    ],
  ],
)
def test_eight_tied_scans_turn_with_the_image(curve, directions):
  """Four do not: the cross-scan never starts at the upper right corner."""
  layer = CrossScan(
    WIDTH,
    mixer=INNER,
    columns=SIDE,
    curve=curve,
    directions=directions,
    tied=True,
  )
  params = drawn(layer)
  y = run(layer, params, X)
  for symmetry in (quarter, mirror):
    got = run(layer, params, turned(X, symmetry))
    gap = np.abs(got - turned(y, symmetry)).max() / np.abs(y).max()
    assert gap < 1e-5 if directions == 8 else gap > 0.01


@pytest.mark.slow
def test_turning_the_image_and_the_scans_turns_the_features():
  """With parameters per direction, and a convolution that is symmetric."""
  layer = SelectiveScan2D(
    WIDTH, columns=SIDE, directions=8, expand=1, state_width=4
  )
  params = drawn(layer)
  y = run(layer, params, X)
  orders = [
    tuple(scan_order("sweep", SIDE, SIDE, d)) for d in range(DIRECTIONS)
  ]
  # The place in the image of each place of the turned image.
  place = np.rot90(np.arange(SIDE * SIDE).reshape(SIDE, SIDE)).ravel()
  source = [orders.index(tuple(place[list(order)])) for order in orders]
  assert source != sorted(source)
  scans = jax.tree.map(lambda p: p[np.array(source)], params["scans"])
  kernel = params["convolution"]["kernel"]
  turns = [np.rot90(kernel, k) for k in range(4)]
  symmetric = {**params["convolution"], "kernel": sum(turns) / 4}
  for convolution, same in ((symmetric, True), (params["convolution"], False)):
    y = run(layer, {**params, "convolution": convolution}, X)
    got = run(
      layer,
      {**params, "convolution": convolution, "scans": scans},
      turned(X, quarter),
    )
    gap = np.abs(got - turned(y, quarter)).max() / np.abs(y).max()
    assert gap < 1e-5 if same else gap > 0.01


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"columns": 3}, "CrossScan: columns must divide L = 16, got 3"),
    ({"columns": 4, "rows": 3}, r"CrossScan: rows \* columns must divide L"),
    ({"columns": 4, "directions": 9}, "directions must be from 1 to 8, got 9"),
    ({"columns": 8, "curve": "hilbert"}, "square grid .* got 2 x 8"),
  ],
)
def test_the_error_names_what_is_wrong(fields, match):
  layer = CrossScan(WIDTH, mixer=INNER, **fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(X))
