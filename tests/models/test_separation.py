"""The separator: exact reconstruction, lengths, masks and its gated block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLP
from jaxmodels.mixers import GLA
from jaxmodels.models import GatedAttention, Separator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 4)).astype(np.float32)


def drawn(model, x):
  """Random parameters without a special value; compiles no initialisation."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    value = 0.4 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def separator(**fields):
  return Separator(
    **{
      "width": 4,
      "depth": 1,
      "mixers": (MLP(4),),
      "mlp": "none",
      "filters": 16,
      "kernel_width": 8,
      "stride": 4,
      **fields,
    }
  )


@pytest.mark.parametrize("length", [8, 13])
def test_masks_of_one_reconstruct_with_the_inverse_decoder(length):
  """relu(x) - relu(-x) = x, and each sample is in two frames."""
  model = separator()
  x = RNG.normal(size=(2, length)).astype(np.float32)
  params = jax.tree.map(
    lambda p: jnp.zeros(p.shape),
    jax.eval_shape(model.init, jax.random.key(0), x),
  )["params"]
  both = np.hstack([np.eye(8), -np.eye(8)])
  params["encoder"]["kernel"] = both.astype(np.float32)
  params["decoder"]["kernel"] = (both.T / 2).astype(np.float32)
  params["masks"]["bias"] = np.ones(32, np.float32)
  y, _ = jax.jit(model.apply)({"params": params}, x)
  assert y.shape == (2, 2, length)
  np.testing.assert_allclose(y, np.stack([x, x], 1), atol=1e-6)


@functools.cache
def softmax_model():
  x = RNG.normal(size=(2, 10)).astype(np.float32)
  model = separator(mask="softmax", sources=3)
  return model, x, drawn(model, x), jax.jit(model.apply)


def test_softmax_masks_add_up_to_what_the_decoder_makes():
  _, x, params, apply = softmax_model()
  y, _ = apply({"params": params}, x)
  padded = np.pad(x, ((0, 0), (4, 6)))
  frames = np.stack([padded[:, 4 * i : 4 * i + 8] for i in range(4)], 1)
  features = np.maximum(frames @ np.asarray(params["encoder"]["kernel"]), 0)
  parts = features @ np.asarray(params["decoder"]["kernel"])
  total = np.zeros((2, 20))
  for i in range(4):
    total[:, 4 * i : 4 * i + 8] += parts[:, i]
  np.testing.assert_allclose(y.sum(1), total[:, 4:14], atol=1e-5)


def test_rows_and_sources_are_independent():
  _, x, params, apply = softmax_model()
  y, _ = apply({"params": params}, x)
  other, _ = apply({"params": params}, x[[1, 1]])
  np.testing.assert_allclose(other[0], y[1], atol=1e-6)
  # The sources are in the order of the masks.
  order = np.arange(48).reshape(3, 16)[[2, 0, 1]].ravel()
  masks = {name: p[..., order] for name, p in params["masks"].items()}
  turned, _ = apply({"params": {**params, "masks": masks}}, x)
  np.testing.assert_allclose(turned, y[:, np.array([2, 0, 1])], atol=1e-6)


def silu(x):
  return x / (1 + np.exp(-x))


def convolved(params, name, x, width):
  """conv(SiLU(W x)) of one row x [L, D], as a loop."""
  h = silu(x @ params[name]["kernel"])
  y = h.copy()
  ahead, back = (params[f"{name}_{s}"]["kernel"] for s in ("ahead", "back"))
  for t in range(len(h)):
    for j in range(width):
      if t - j >= 0:
        y[t] += ahead[width - 1 - j] * h[t - j]
      if t + j < len(h):
        y[t] += back[width - 1 - j] * h[t + j]
  return y


def test_gated_attention_is_its_equation():
  layer = GatedAttention(4, group_size=3, key_width=2, kernel_width=2)
  params = drawn(layer, X)
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  for x, found in zip(X.astype(np.float64), y, strict=True):
    both, z = (convolved(p, n, x, 2) for n in ("hidden", "key"))
    q, k, far_q, far_k = (
      z * a + b for a, b in zip(p["scale"], p["offset"], strict=True)
    )
    read = np.zeros_like(both)
    for t, s in np.ndindex(7, 7):
      if t // 3 == s // 3:
        read[t] += max(q[t] @ k[s] / 3, 0) ** 2 * both[s]
      read[t] += far_q[t] @ far_k[s] / 7 * both[s]
    (v, u), (w, r) = (np.split(a, 2, -1) for a in (both, read))
    wanted = r * v / (1 + np.exp(-w * u)) @ p["output"]["kernel"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_mixer_takes_the_place_of_the_attention():
  inner = GLA(8, heads=2, gate_rank=2)
  layer = GatedAttention(4, mixer=inner, kernel_width=2)
  params = drawn(layer, X)
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  p = jax.tree.map(np.asarray, params)
  both = np.stack([convolved(p, "hidden", x, 2) for x in X])
  read, _ = inner.apply(
    {"params": params["attention"]}, both.astype(np.float32)
  )
  (v, u), (w, r) = (np.split(np.asarray(a), 2, -1) for a in (both, read))
  wanted = r * v / (1 + np.exp(-w * u)) @ p["output"]["kernel"]
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  # Packed rows are separate.
  ids = np.repeat([[0, 1]], 7, 1).astype(np.int32)
  packed, _ = jax.jit(layer.apply)(
    {"params": params}, X.reshape(1, 14, 4), segment_ids=ids
  )
  np.testing.assert_allclose(packed[0].reshape(2, 7, 4), y, atol=1e-5)


def test_estimates_are_float32_in_bfloat16():
  model = separator(mixers=(GatedAttention(4),), dtype=jnp.bfloat16)
  (y, _), _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), X[..., 0]
  )
  assert y.dtype == "float32"


@pytest.mark.parametrize(
  ("fields", "x", "match"),
  [
    ({"stride": 3}, X[..., 0], "kernel_width must be a multiple of stride = 3"),
    ({"mask": "tanh"}, X[..., 0], "unknown mask 'tanh'"),
    ({}, X, r"Separator: x must be \[B, T\]"),
  ],
)
def test_the_error_names_what_is_wrong(fields, x, match):
  model = separator(**fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), x)


def test_joint_attention_takes_no_packed_rows():
  layer = GatedAttention(4)
  ids = np.zeros((2, 7), np.int32)
  with pytest.raises(ValueError, match="give it a mixer, such as Bidirec"):
    jax.eval_shape(
      lambda x: layer.init(jax.random.key(0), x, segment_ids=ids), X
    )


def test_the_mixer_inside_has_weights_of_one_bit_too():
  outside = GatedAttention(8, mixer=GLA(16), one_bit=True)
  assert outside._inner().one_bit
  alone = GatedAttention(8, mixer=GLA(16, one_bit=True))
  assert alone._inner().one_bit and not alone.one_bit
