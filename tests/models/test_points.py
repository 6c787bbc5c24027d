"""Models of point clouds: invariances, and their parts beside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import voxels
from jaxmodels.mixers import GLA, GatedConvolution
from jaxmodels.models import (
  LocalNormPooling,
  PointClassifier,
  SpatialDescriptor,
  TokenChannel,
  VoxelClassifier,
)

RNG = np.random.default_rng(0)
CLOUDS = RNG.normal(size=(2, 30, 3)).astype(np.float32)
X = RNG.normal(size=(2, 6, 4)).astype(np.float32)
# A mixer that compiles fast.
QUICK = GatedConvolution(8)


def drawn(model, *args):
  """Random parameters without a special value; compiles no initialisation."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    value = 0.4 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def test_the_channel_direction_reads_the_channels_backwards():
  inner = GatedConvolution(4)
  mixer = TokenChannel(4, mixer=inner)
  params = drawn(mixer, X)
  y, _ = jax.jit(mixer.apply)({"params": params}, X)

  @jax.jit
  def alone(x):
    return inner.apply({"params": params["both"]}, x)[0]

  wanted = alone(X) + alone(X[..., ::-1].copy())[..., ::-1]
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  # So the mixer commutes with the reversal, which a single direction does not.
  z, _ = jax.jit(mixer.apply)({"params": params}, X[..., ::-1].copy())
  np.testing.assert_allclose(z[..., ::-1], y, atol=1e-5)
  assert np.abs(alone(X[..., ::-1].copy())[..., ::-1] - alone(X)).max() > 0.01
  free = jax.eval_shape(mixer.clone(tied=False).init, jax.random.key(0), X)
  assert set(free["params"]) == {"token", "channel"}


def test_local_norm_pooling_is_a_loop_over_neighbours():
  layer = LocalNormPooling()
  near = np.array([[[0, 1, 5], [1, 1, 1], [2, 0, 4]]] * 2, np.int32)
  x = X[:, :6]
  near = np.concatenate([near, near[:, ::-1]], 1)
  params = drawn(layer, x, near)
  y = jax.jit(layer.apply)({"params": params}, x, near)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  for b, g in np.ndindex(2, 6):
    center = x[b, g].astype(np.float64)
    gaps = x[b, near[b, g]].astype(np.float64) - center
    # Copies of its own token are a group without a deviation.
    square = np.mean(gaps**2)
    gaps = gaps / ((np.sqrt(square) if square else 1) + 1e-5)
    h = np.hstack([gaps, np.tile(center, (3, 1))])
    h = h * p["scale"][0, 0] + p["bias"][0, 0]
    share = np.exp(h) / np.exp(h).sum(0)
    hidden = (share * h).sum(0) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    wanted = hidden / (1 + np.exp(-hidden)) @ p["pooled"]["kernel"]
    np.testing.assert_allclose(y[b, g], wanted, atol=1e-5)


@functools.cache
def classifier():
  model = PointClassifier(
    classes=3,
    width=8,
    depth=1,
    mixers=(TokenChannel(8, mixer=QUICK),),
    mlp="none",
    groups=8,
    neighbors=4,
  )
  return model, drawn(model, CLOUDS), jax.jit(model.apply)


def test_the_class_depends_on_the_set_of_points_alone():
  _, params, apply = classifier()
  logits, _ = apply({"params": params}, CLOUDS)
  order = np.random.default_rng(3).permutation(30)
  moved, _ = apply({"params": params}, 5 * CLOUDS[:, order] - 3)
  np.testing.assert_allclose(moved, logits, atol=1e-5)
  # Clouds do not see one another.
  other, _ = apply({"params": params}, CLOUDS[[0, 0]])
  np.testing.assert_allclose(other[0], logits[0], atol=1e-6)
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.slow
def test_without_normalisation_the_class_depends_on_the_place():
  model, params, _ = classifier()
  apply = jax.jit(model.clone(normalize=False).apply)
  logits, _ = apply({"params": params}, CLOUDS)
  moved, _ = apply({"params": params}, CLOUDS + 1)
  assert np.abs(moved - logits).max() > 1e-2


@pytest.mark.slow
def test_one_group_and_no_layers_are_point_net():
  model = PointClassifier(
    classes=3, width=8, depth=0, mixers=("gla",), groups=1, neighbors=30
  )
  params = drawn(model, CLOUDS)
  logits, _ = jax.jit(model.apply)({"params": params}, CLOUDS)
  params = jax.tree.map(np.asarray, params)

  def dense(name, x):
    return x @ params[name]["kernel"] + params[name]["bias"]

  def silu(x):
    return x / (1 + np.exp(-x))

  x = CLOUDS - CLOUDS.mean(1, keepdims=True)
  x /= np.linalg.norm(x, axis=-1).max(1)[:, None, None]
  for cloud, own in zip(x, logits, strict=True):
    center = cloud[np.argmax(np.linalg.norm(cloud, axis=-1))]
    e = dense("point_out", silu(dense("point", cloud - center)))
    e = np.hstack([e, np.tile(e.max(0), (30, 1))])
    token = dense("group_out", silu(dense("group", e))).max(0)
    token = token + dense("place_out", silu(dense("place", center)))
    token /= np.sqrt(np.mean(token**2) + 1e-6)
    token = token * params["norm"]["scale"]
    wanted = dense("head", np.hstack([token, token]))
    np.testing.assert_allclose(own, wanted, atol=1e-5)


def test_the_descriptor_is_a_convolution_at_occupied_voxels():
  side = 3
  numbers = np.sort(RNG.permutation(27)[:10]).astype(np.int32)
  found = np.concatenate([numbers, [27, 27]])[None].astype(np.int32)
  x = RNG.normal(size=(1, 12, 2)).astype(np.float32)
  layer = SpatialDescriptor()
  near = jax.jit(voxels.neighbor_slots, static_argnums=1)(found, side)
  params = drawn(layer, x, near)
  y = jax.jit(layer.apply)({"params": params}, x, near)
  grid = np.zeros((5, 5, 5, 2))
  places = [np.unravel_index(n, (3, 3, 3)) for n in numbers]
  for n, (i, j, k) in enumerate(places):
    grid[i + 1, j + 1, k + 1] = x[0, n]
  kernel = np.asarray(params["kernel"]["kernel"], np.float64)
  for n, (i, j, k) in enumerate(places):
    h = grid[i : i + 3, j : j + 3, k : k + 3].reshape(-1) @ kernel
    h = (h - h.mean()) / np.sqrt(h.var() + 1e-6)
    h = h * params["norm"]["scale"] + params["norm"]["bias"]
    tanh = np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))
    np.testing.assert_allclose(y[0, n], h * (1 + tanh) / 2, atol=1e-4)


def voxel_model(**fields):
  return VoxelClassifier(
    **{
      "classes": 3,
      "width": 8,
      "depth": 2,
      "mixers": (QUICK,),
      "mlp": "none",
      "side": 4,
      "window": 2,
      "group_size": 8,
      "per_point": True,
      **fields,
    }
  )


def test_the_class_of_a_point_does_not_depend_on_the_order():
  model = voxel_model()
  params = drawn(model, CLOUDS)
  apply = jax.jit(model.apply)
  logits, _ = apply({"params": params}, CLOUDS)
  order = np.random.default_rng(3).permutation(30)
  other, _ = apply({"params": params}, 3 * CLOUDS[:, order] + 1)
  np.testing.assert_allclose(other, logits[:, order], atol=1e-4)


@pytest.mark.slow
def test_a_point_reads_its_group_and_its_neighbours_alone():
  """One layer: the gradient reaches what the definition says it reaches."""
  model = voxel_model(
    depth=1,
    normalize=False,
    side=6,
    group_size=4,
    mixers=(GLA(8, heads=2, gate_rank=2),),
  )
  x = np.clip(0.6 * CLOUDS[:1], -0.99, 0.99)
  params = drawn(model, x)
  numbers = np.asarray(voxels.voxel_numbers(x, 6))
  found, slots = map(np.asarray, voxels.occupied(numbers, 6))
  place = np.argsort(np.asarray(voxels.window_order(found, 6, 2, 0))[0])
  near = np.asarray(voxels.neighbor_slots(found, 6))[0]
  slopes = jax.jit(
    jax.jacrev(lambda x: model.apply({"params": params}, x)[0][0].sum(-1))
  )(x)
  reads = np.abs(np.asarray(slopes)[:, 0]).max(-1) > 0
  seen = 0
  for n, m in np.ndindex(30, 30):
    around = [v for v in near[slots[0, n]] if v < len(found[0])]
    mine = slots[0, m]
    wanted = any(
      place[v] // 4 == place[mine] // 4 and place[mine] <= place[v]
      for v in around
    )
    assert reads[n, m] == wanted
    seen += wanted
  assert 0 < seen < 900


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hgrn2", "rwkv7", "mamba"])
def test_values_between_layers_follow_the_voxels(name):
  """An empty slot changes nothing, also with values that layers pass on."""
  model = voxel_model(depth=3, mixers=(name,), per_point=False)
  params = drawn(model, CLOUDS)
  apply = jax.jit(model.apply)
  logits, _ = apply({"params": params}, CLOUDS)
  twice, _ = apply({"params": params}, np.concatenate([CLOUDS, CLOUDS], 1))
  np.testing.assert_allclose(twice, logits, atol=1e-4)


@pytest.mark.parametrize("per_point", [False, True])
def test_logits_are_float32_in_bfloat16(per_point):
  for model in (classifier()[0], voxel_model(per_point=per_point)):
    half = model.clone(dtype=jnp.bfloat16)
    (logits, _), _ = jax.eval_shape(
      half.init_with_output, jax.random.key(0), CLOUDS
    )
    assert logits.dtype == "float32"


@pytest.mark.parametrize(
  ("fields", "x", "match"),
  [
    ({"groups": 31}, CLOUDS, "farthest_points: count must be from 1 to 30"),
    ({}, CLOUDS[0], r"PointClassifier: x must be \[B, N, 3\]"),
    ({"scan_layers": True}, CLOUDS, "layers are not scanned: leave axis_name"),
  ],
)
def test_the_error_names_what_is_wrong(fields, x, match):
  model = classifier()[0].clone(**fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), x)
