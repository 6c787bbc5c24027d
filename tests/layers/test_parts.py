"""Norms, channel mixers, embedding, rotary positions, short convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLPS, TokenEmbedding
from jaxmodels.layers.common import log_uniform, step_bias
from jaxmodels.layers.norms import LayerNorm, RMSNorm, l2_normalize
from jaxmodels.layers.rotary import advance_positions, rotate
from jaxmodels.layers.short_convolution import ShortConvolution
from jaxmodels.ops.engine import checks
from jaxmodels.testing.examples.mixers import parts as plain


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_rms_norm_normalises_each_group():
  x, scale = 3 * draw(2, 5, 12), draw(12)
  params = {"params": {"scale": scale}}
  got = RMSNorm(groups=3).apply(params, x)
  parts = plain.rms(x.astype(float).reshape(2, 5, 3, 4), scale.reshape(3, 4))
  np.testing.assert_allclose(got, parts.reshape(x.shape), rtol=1e-5)
  with pytest.raises(ValueError, match="groups must divide the width 12"):
    RMSNorm(groups=5).apply(params, x)


def test_norms_without_a_scale_and_with_or_without_a_bias():
  x, scale, bias = draw(2, 5, 12), draw(12), draw(12)[::-1]
  unscaled = RMSNorm(use_scale=False).apply({}, x)
  np.testing.assert_allclose(unscaled, plain.rms(x, 1), rtol=1e-5, atol=1e-6)
  params = {"params": {"scale": scale, "bias": bias}}
  biased = RMSNorm(use_bias=True).apply(params, x)
  np.testing.assert_allclose(
    biased, plain.rms(x, scale) + bias, rtol=1e-5, atol=1e-5
  )
  unbiased = LayerNorm(use_bias=False).apply({"params": {"scale": scale}}, x)
  np.testing.assert_allclose(
    unbiased,
    np.asarray(LayerNorm().apply(params, x)) - bias,
    rtol=1e-5,
    atol=1e-5,
  )


def test_norms_compute_in_float32_for_bfloat16():
  # The sum of squares of 4096 ones stops at 256 in bfloat16.
  x = jnp.ones((1, 4096), jnp.bfloat16)
  y = RMSNorm().apply({"params": {"scale": jnp.ones(4096)}}, x)
  np.testing.assert_allclose(y, 1, rtol=1e-5)
  np.testing.assert_allclose(l2_normalize(x), 4096**-0.5, rtol=1e-5)


def test_layer_norm_equals_its_equation():
  x, scale, bias = 3 + draw(2, 5, 12), draw(12), draw(12)[::-1]
  params = {"params": {"scale": scale, "bias": bias}}
  mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
  np.testing.assert_allclose(
    LayerNorm().apply(params, x),
    (x - mean) / deviation * scale + bias,
    rtol=1e-4,
    atol=1e-5,
  )


def test_l2_normalize_has_a_finite_gradient_at_zero():
  x = 5 * draw(3, 8)
  np.testing.assert_allclose(
    np.linalg.norm(l2_normalize(x), axis=-1), 1, rtol=1e-6
  )
  slope = jax.grad(lambda x: l2_normalize(x)[0])(jnp.zeros(4))
  np.testing.assert_allclose(slope, [1e3, 0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("name", ["gated_mlp", "mlp"])
def test_channel_mixers_equal_their_equations(name):
  mlp = MLPS[name](width=6, hidden=10)
  x = draw(2, 3, 6)
  params = mlp.init(jax.random.key(0), x)
  params = jax.tree.map(lambda p: p + 0.1, params)
  p = jax.tree.map(lambda p: np.asarray(p, float), params["params"])
  if name == "mlp":
    hidden = plain.gelu(plain.dense(p["input"], x))
  else:
    hidden = plain.silu(plain.dense(p["gate"], x))
    hidden = hidden * plain.dense(p["value"], x)
  wanted = plain.dense(p["output"], hidden)
  y, state = mlp.apply(params, x)
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
  assert state == mlp.init_state(2) == ()


@pytest.mark.parametrize("receptance", [True, False])
def test_the_channel_mix_of_rwkv_equals_its_equation(receptance):
  """In two calls, with a new segment at token 5."""
  mlp = MLPS["rwkv_channel_mix"](8, receptance=receptance)
  x, ids = draw(2, 7, 8), np.arange(7)[None].repeat(2, 0) // 5
  params = mlp.init(jax.random.key(0), x)
  assert params["params"]["output"]["kernel"].shape == (32, 8)
  p = jax.tree.map(lambda p: np.asarray(p, float), params["params"])
  before = np.concatenate([0 * x[:, :1], x[:, :-1]], 1)
  before[:, 5] = 0
  mixed = {
    name: x + (before - x) * p[f"mix_{name}"]
    for name in (("key", "receptance") if receptance else ("key",))
  }
  hidden = np.maximum(plain.dense(p["key"], mixed["key"]), 0)
  wanted = plain.dense(p["output"], hidden**2)
  if receptance:
    gate = plain.dense(p["receptance"], mixed["receptance"])
    wanted = plain.sigmoid(gate) * wanted
  first, state = mlp.apply(
    params, x[:, :3], mlp.init_state(2), segment_ids=ids[:, :3]
  )
  rest, last = mlp.apply(params, x[:, 3:], state, segment_ids=ids[:, 3:])
  y = np.concatenate([first, rest], 1)
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(last, x[:, -1])


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_logits_read_their_tables(tied):
  layer = TokenEmbedding(7, 4, tied=tied)
  tokens = np.array([[0, 6, 3]])
  params = layer.init(jax.random.key(0), tokens)
  tables = params["params"]
  assert len(tables) == (1 if tied else 2)
  x = layer.apply(params, tokens)
  np.testing.assert_array_equal(x[0], tables["table"][np.array([0, 6, 3])])
  logits = layer.apply(params, x, method="decode")
  table = tables["table" if tied else "readout"]
  np.testing.assert_allclose(logits[0], x[0] @ table.T, rtol=1e-5, atol=1e-8)
  with pytest.raises(ValueError, match="tokens must be integers"):
    layer.apply(params, tokens.astype(np.float32))


@pytest.mark.parametrize("token", [-1, 7])
def test_the_error_names_a_token_outside_the_vocabulary(token):
  layer = TokenEmbedding(7, 4)
  params = {"params": {"table": draw(7, 4)}}
  layer.apply(params, np.array([[0, 6]]))
  match = r"TokenEmbedding: tokens must lie in \[0, 6\]"
  with checks.numerics(), pytest.raises(ValueError, match=match):
    layer.apply(params, np.array([[0, token]]))


def test_rotary_products_depend_only_on_the_distance():
  q, k = draw(1, 1, 2, 8), draw(1, 1, 2, 8)[:, :, ::-1]

  def product(i, j):
    turned = rotate(q, np.full((1, 1), i)), rotate(k, np.full((1, 1), j))
    return np.sum(turned[0] * turned[1], -1)

  np.testing.assert_allclose(product(9, 4), product(105, 100), rtol=1e-4)
  assert np.abs(product(9, 4) - product(9, 5)).min() > 1e-3
  np.testing.assert_allclose(product(3, 3), np.sum(q * k, -1), rtol=1e-5)


def test_positions_count_from_the_start_of_each_document():
  ids = np.array([[0, 0, 1, 1, 1, 3], [2, 2, 2, 2, 2, 2]], np.int32)
  entering = jnp.array([5, 9], jnp.int32)
  positions, after = advance_positions(entering, 6, ids)
  np.testing.assert_array_equal(
    positions, [[5, 6, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
  )
  np.testing.assert_array_equal(after, [1, 6])
  ids = np.array([[0, 0, 1, 1, 0, 0], [-1, 0, 0, 2, 0, -1]], np.int32)
  positions, after = advance_positions(entering, 6, ids)
  np.testing.assert_array_equal(
    positions, [[5, 6, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]]
  )
  np.testing.assert_array_equal(after, [2, 1])
  positions, after = advance_positions(entering, 2, None)
  np.testing.assert_array_equal(positions, [[5, 6], [9, 10]])
  np.testing.assert_array_equal(after, [7, 11])


def test_short_convolution_equals_its_equation():
  layer = ShortConvolution(3, use_bias=True)
  x = draw(1, 9, 4)
  params = layer.init(jax.random.key(0), x)
  y, tail = layer.apply(params, x)
  own = jax.tree.map(np.asarray, params["params"])
  wanted = plain.convolve(own, x[0].astype(float))
  np.testing.assert_allclose(y[0], wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(tail, x[:, -2:])


def test_initial_steps_are_log_uniform():
  key, shape = jax.random.key(0), (4000,)
  steps = np.asarray(log_uniform(1e-3, 1e-1)(key, shape))
  softplus = jax.nn.softplus(step_bias(1e-3, 1e-1)(key, shape))
  np.testing.assert_allclose(softplus, steps, rtol=1e-3)
  assert steps.min() >= 0.999e-3
  assert steps.max() <= 1.001e-1
  # Half of the steps are below the geometric mean.
  assert abs((steps < 1e-2).mean() - 0.5) < 0.03


def turned(x, positions, base):
  """Rotary positions in float64."""
  half = x.shape[-1] // 2
  angles = np.float64(positions)[..., None, None] * (
    float(base) ** (-np.arange(half) / half)
  )
  first, second = x[..., :half].astype(float), x[..., half:].astype(float)
  sine, cosine = np.sin(angles), np.cos(angles)
  return np.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], -1
  )


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 2.0, 0.5])
def test_rotations_are_accurate_for_positions_of_any_size(base):
  """Also where a float32 product of position and speed has no digits left."""
  ends = [0, 1, -1, 7, 10**6, -(10**6), 8 * 10**6, 2**31 - 1, -(2**31)]
  positions = np.array([ends], np.int32)
  x = draw(1, len(ends), 2, 64)
  got = jax.jit(rotate, static_argnums=2)(x, positions, base)
  np.testing.assert_allclose(got, turned(x, positions, base), atol=4e-6)
  few = np.array([[3, 200]], np.uint8)
  got = rotate(x[:, :2], few, base)
  np.testing.assert_allclose(got, turned(x[:, :2], few, base), atol=4e-6)
  large = np.array([[2**32 - 1, 5]], np.uint32)
  got = rotate(x[:, :2], large, base)
  np.testing.assert_allclose(got, turned(x[:, :2], large, base), atol=1e-5)


@pytest.mark.parametrize("start", [10**6, 8 * 10**6, 2**31 - 8])
def test_rotary_logits_at_large_positions_depend_only_on_the_distance(start):
  q, k = draw(2, 1, 1, 1, 64)
  q, k = (75**0.5 / np.linalg.norm(x) * x for x in (q, k))

  @jax.jit
  def logit(position):
    position = position[None, None]
    return jnp.sum(rotate(q, position + 7) * rotate(k, position))

  at_zero = np.sum(turned(q, np.array([[7]]), 1e4) * k)
  np.testing.assert_allclose(logit(jnp.int32(start)), at_zero, atol=1e-4)
  # A traced base has only the digits of float32, the same for both positions.
  other = jnp.sum(
    jax.jit(rotate)(q, jnp.int32([[start + 7]]), 1e4)
    * jax.jit(rotate)(k, jnp.int32([[start]]), 1e4)
  )
  np.testing.assert_allclose(other, at_zero, atol=2e-4)


def test_rotary_works_in_float64_and_refuses_a_wrong_base():
  x, positions = draw(1, 2, 1, 8).astype(float), np.array([[5, 10**9]])
  with jax.enable_x64(True):
    got = rotate(jnp.asarray(x), jnp.asarray(positions))
    narrow = rotate(jnp.asarray(x, jnp.float32), jnp.asarray(positions))
  wanted = turned(x, positions, 1e4)
  np.testing.assert_allclose(got, wanted, atol=1e-6)
  np.testing.assert_allclose(got[:, 0], wanted[:, 0], atol=1e-13)
  np.testing.assert_allclose(narrow, wanted, atol=1e-6)
  with pytest.raises(ValueError, match="base must be above 0, got 0"):
    rotate(x, positions, 0.0)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms_with_and_without_offset_start_equal(offset):
  x, scale, bias = 3 + draw(2, 5, 12), draw(12), draw(12)[::-1]
  for layer in (RMSNorm(offset=offset), LayerNorm(offset=offset)):
    params = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(params["params"]["scale"], 1 - offset)
    np.testing.assert_allclose(
      layer.apply(params, x),
      type(layer)().apply(type(layer)().init(jax.random.key(0), x), x),
      rtol=1e-6,
      atol=1e-6,
    )
  norm = RMSNorm(epsilon=1e-3, offset=offset)
  got = norm.apply({"params": {"scale": scale}}, x)
  wanted = plain.rms(x.astype(float), offset + scale, 1e-3)
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
  norm = LayerNorm(offset=offset)
  got = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
  centred = x.astype(float) - x.mean(-1, keepdims=True)
  wanted = plain.rms(centred, offset + scale) + bias
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_layer_norm_with_groups_is_the_group_norm_per_head():
  heads, x = 3, 1 + draw(2, 5, 12)
  scale, bias = draw(12), draw(12)[::-1]
  params = {"params": {"scale": scale, "bias": bias}}
  got = LayerNorm(epsilon=1e-3, groups=heads).apply(params, x)
  for head in range(heads):
    own = slice(4 * head, 4 * head + 4)
    part = x[..., own].astype(float)
    part = part - part.mean(-1, keepdims=True)
    part = part / np.sqrt(np.mean(part**2, -1, keepdims=True) + 1e-3)
    wanted = part * scale[own] + bias[own]
    np.testing.assert_allclose(got[..., own], wanted, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="LayerNorm: groups must divide the wid"):
    LayerNorm(groups=5).apply(params, x)
