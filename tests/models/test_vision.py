"""Patches, the classifier of images, U-shapes and the anomaly detector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLP
from jaxmodels.mixers import GLA
from jaxmodels.models import (
  AnomalyDetector,
  Backbone,
  Classifier,
  Convolutions,
  ImageClassifier,
  UNet,
)
from jaxmodels.models.vision import from_patches, to_patches

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
VIG = (("vig", {"columns": 4, "gate_rank": 2}),)
# A layer that compiles fast.
QUICK = (MLP(1),)


def drawn(model, x=IMAGES, scale=0.2):
  """Random parameters, so that none has a special value."""
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + scale * rng.normal(size=p.shape).astype(p.dtype), params
  )


def run(model, params, x):
  return jax.jit(model.apply)({"params": params}, x)


def dense(p, x):
  return np.asarray(x) @ np.asarray(p["kernel"]) + np.asarray(p.get("bias", 0))


def test_patches_are_squares_row_by_row():
  image = RNG.normal(size=(2, 4, 6, 3))
  patches = to_patches(image, 2)
  wanted = [
    image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, -1)
    for i in range(2)
    for j in range(3)
  ]
  np.testing.assert_array_equal(patches, np.stack(wanted, 1).astype(np.float32))
  np.testing.assert_array_equal(
    from_patches(patches, 2, 3), image.astype(np.float32)
  )


def test_it_is_the_classifier_of_patches_with_positions():
  fields = {"classes": 5, "width": 8, "depth": 1, "mixers": VIG, "mlp": "none"}
  model = ImageClassifier(patch_size=2, **fields)
  params = drawn(model)
  logits, _ = run(model, params, IMAGES)
  rest = dict(params)
  places = rest.pop("positions")
  patches = np.asarray(to_patches(IMAGES, 2))
  # The same as patches with a one at their own number.
  ones = np.broadcast_to(np.eye(16, dtype=np.float32), (2, 16, 16))
  kernel = np.concatenate([rest["embedding"]["kernel"], places])
  rest["embedding"] = {**rest["embedding"], "kernel": kernel}
  other = Classifier(input_width=12 + 16, pooling="mean", **fields)
  wanted, _ = run(other, rest, np.concatenate([patches, ones], -1))
  np.testing.assert_allclose(logits, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_class_does_not_turn_with_the_image():
  """With eight tied scans, patches of one pixel and no positions."""
  scans = {"columns": 8, "mixer": GLA(8, heads=2, gate_rank=2), "tied": True}
  for directions, same in ((8, True), (4, False)):
    mixer = ("cross_scan", {"directions": directions, **scans})
    model = ImageClassifier(
      classes=5, width=8, depth=2, mixers=(mixer,), positions=False
    )
    params = drawn(model)
    logits, _ = run(model, params, IMAGES)
    turned, _ = run(model, params, np.rot90(IMAGES, axes=(1, 2)).copy())
    mirrored, _ = run(model, params, IMAGES[:, :, ::-1].copy())
    for other in (turned, mirrored):
      gap = np.abs(other - logits).max() / np.abs(logits).max()
      assert gap < 1e-4 if same else gap > 1e-3


@functools.cache
def u_net():
  model = UNet(
    classes=3, widths=(4, 6), depth=1, mixers=QUICK, mlp="none", patch_size=2
  )
  return model, drawn(model)


def test_a_u_shape_is_its_stacks_at_each_resolution():
  model, params = u_net()
  logits = run(model, params, IMAGES)

  def stack(part, level, x):
    own = Backbone(x.shape[-1], 1, (MLP(x.shape[-1]),), mlp="none")
    return np.asarray(run(own, params[part][f"stage_{level}"], x)[0])

  x = dense(params["embedding"], np.asarray(to_patches(IMAGES, 2)))
  fine = stack("down", 0, x)
  # Place (i, j) of the coarse grid has the four places below and beside it.
  grid = fine.reshape(2, 4, 4, 4)
  four = np.concatenate(
    [grid[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], -1
  )
  coarse = stack(
    "down", 1, dense(params["down"]["merge_1"], four).reshape(2, 4, 6)
  )
  parts = dense(params["up"]["expand_0"], coarse)
  parts = parts.reshape(2, 2, 2, 2, 2, 4)
  up = np.zeros((2, 4, 4, 4), np.float32)
  for a, b in np.ndindex(2, 2):
    up[:, a::2, b::2] = parts[:, :, :, a, b]
  y = up.reshape(2, 16, 4) + dense(params["up"]["skip_0"], fine)
  y = dense(params["head"], stack("up", 0, y))
  np.testing.assert_allclose(
    to_patches(logits, 2), y, atol=1e-5 * np.abs(y).max()
  )


@pytest.mark.slow
def test_convolutions_are_loops_over_neighbours():
  layer = Convolutions(3, columns=4)
  x = IMAGES[:, :2, :4].reshape(2, 8, 3)
  params = drawn(layer, x)
  y, _ = run(layer, params, x)

  def convolved(kernel, image):
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
      padded[:, a : a + 2, b : b + 4] @ np.asarray(kernel[a, b], np.float64)
      for a, b in np.ndindex(3, 3)
    )

  h = convolved(params["first"]["kernel"], x.reshape(2, 2, 4, 3))
  h = convolved(params["second"]["kernel"], h / (1 + np.exp(-h)))
  np.testing.assert_allclose(y, h.reshape(2, 8, 3), atol=1e-5)


@pytest.mark.slow
def test_reconstruction_does_not_change_the_encoder():
  model = AnomalyDetector(
    classes=3,
    widths=(4, 6),
    depth=1,
    bottleneck=2,
    mixers=QUICK,
    encoder=QUICK,
    patch_size=2,
  )
  params = drawn(model)

  def losses(params):
    found = model.apply({"params": params}, IMAGES)
    error = sum(jnp.sum((a - b) ** 2) for a, b in found["features"])
    return jnp.stack([error, jnp.sum(found["logits"] ** 2)])

  slopes = jax.jit(jax.jacrev(losses))(params)
  encoder = ("embedding", "encoder", "head")
  for name, part in slopes.items():
    for leaf in jax.tree.leaves(part):
      error, logits = np.abs(leaf.reshape(2, -1)).max(1)
      assert (error == 0) == (name in encoder)
      assert (logits == 0) == (name not in encoder)


@pytest.mark.parametrize(
  ("model", "x", "match"),
  [
    (
      ImageClassifier(classes=2, width=8, depth=1, mixers=VIG, patch_size=3),
      IMAGES,
      "size of a patch must divide the 8 x 8 pixels of the image, got 3",
    ),
    (
      ImageClassifier(classes=2, width=8, depth=1, mixers=VIG),
      IMAGES[0],
      r"ImageClassifier: x must be \[B, H, W, C\]",
    ),
    (
      UNet(classes=2, widths=(4, 4, 4, 4), depth=1, mixers=QUICK, patch_size=2),
      IMAGES,
      "UNet: H must be a multiple of .* = 16, got 8",
    ),
    (
      AnomalyDetector(classes=2, widths=(4, 4), depth=1, bottleneck=2),
      IMAGES[:, :, :7],
      "AnomalyDetector: W must be a multiple of .* = 2, got 7",
    ),
  ],
)
def test_the_error_names_what_is_wrong(model, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), x)
