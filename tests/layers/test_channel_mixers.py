"""Bilinear MLP, TokenFormer, MemoryFormer, sparse mixture of experts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLPS, BilinearMLP, TokenFormer
from jaxmodels.layers.bilinear_mlp import interaction
from jaxmodels.layers.memoryformer import hashed_lookup
from jaxmodels.layers.tokenformer import grow
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples.mixers import parts as plain

WIDTH = 8
X = np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)


def prepared(name, **fields):
  layer = MLPS[name](width=WIDTH, **fields)
  params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
  return layer, params


def exact(params):
  return jax.tree.map(lambda p: np.asarray(p, float), params)


def bilinear(p, x, layer):
  hidden = plain.dense(p["gate"], x) * plain.dense(p["value"], x)
  return plain.dense(p["output"], hidden)


def tokenformer(p, x, layer):
  scores = x @ p["key"].T
  norm = np.linalg.norm(scores, axis=-1, keepdims=True)
  return plain.gelu(scores / norm * np.sqrt(layer.hidden)) @ p["value"]


def memoryformer(p, x, layer):
  def lookup(table, x):
    out = np.zeros((*x.shape[:-1], table.shape[-1]))
    bits = x.shape[-1] // len(table)
    for place in np.ndindex(x.shape[:-1]):
      for z, rows in zip(x[place].reshape(-1, bits), table, strict=True):
        signs = (np.arange(2**bits)[:, None] >> np.arange(bits) & 1) * 2 - 1
        share = np.exp(signs @ z)
        row = int(((z >= 0) * 2 ** np.arange(bits)).sum())
        out[place] += share[row] / share.sum() * rows[row]
    return out

  hidden = plain.rms(lookup(p["first"], x), p["norm"]["scale"])
  return lookup(p["second"], hidden)


def sparse_moe(p, x, layer):
  out = np.zeros(x.shape)
  for place in np.ndindex(x.shape[:-1]):
    u = x[place]
    scores = np.exp(plain.dense(p["router"], u))
    chosen = np.argsort(-scores)[: layer.top_k]
    for e in chosen:
      hidden = plain.silu(u @ p["gate"][e]) * (u @ p["value"][e])
      out[place] += scores[e] / scores[chosen].sum() * hidden @ p["output"][e]
  return out


def erf(x):
  return np.vectorize(math.erf)(x)


ACTIVATIONS = {
  "silu": plain.silu,
  "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
  "gelu_tanh": plain.gelu,
  "relu": lambda x: np.maximum(x, 0),
  "relu2": lambda x: np.maximum(x, 0) ** 2,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_biases_of_mlps(name):
  bias = name in ("gelu", "relu")
  f = ACTIVATIONS[name]
  options = {"hidden": 6, "activation": name, "use_bias": bias}
  for kind, fields in (("mlp", options), ("gated_mlp", options)):
    if kind == "gated_mlp":
      fields = {**fields, "gate_scale": 0.4}
    layer, params = prepared(kind, **fields)
    assert all(("bias" in p) == bias for p in params.values())
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    leaves = [p + 0.3 * rng.normal(size=p.shape) for p in leaves]
    params = jax.tree.unflatten(tree, [np.float32(p) for p in leaves])
    y, _ = layer.apply({"params": params}, X)
    p, x = exact(params), X.astype(float)
    if kind == "mlp":
      hidden = f(plain.dense(p["input"], x))
    else:
      hidden = f(0.4 * plain.dense(p["gate"], x)) * plain.dense(p["value"], x)
    assert relative_error(y, plain.dense(p["output"], hidden)) < 2e-6


CASES = {
  "bilinear_mlp": (bilinear, {"hidden": 10}),
  "tokenformer": (tokenformer, {"hidden": 12}),
  "memoryformer": (memoryformer, {"bits": 2, "hidden": 12}),
  "sparse_moe": (sparse_moe, {"experts": 4, "top_k": 2, "hidden": 6}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_channel_mixer_equals_its_equation(name):
  """And every parameter has a finite gradient that is not zero."""
  equation, fields = CASES[name]
  layer, params = prepared(name, **fields)

  def loss(params):
    y, state = layer.apply({"params": params}, X)
    assert state == ()
    return jnp.sum(jnp.sin(y)), y

  slopes, y = jax.jit(jax.grad(loss, has_aux=True))(params)
  wanted = equation(exact(params), X.astype(float), layer)
  assert relative_error(y, wanted) < 2e-5
  for slope in jax.tree.leaves(slopes):
    assert np.isfinite(slope).all() and np.abs(slope).max() > 1e-6


@pytest.mark.parametrize(
  "name", ["sparse_moe", pytest.param("memoryformer", marks=pytest.mark.slow)]
)
def test_bfloat16_is_close_to_float32(name):
  _, fields = CASES[name]
  layer, params = prepared(name, **fields)
  x = X.astype(jnp.bfloat16)
  narrow = layer.clone(dtype=jnp.bfloat16)
  y, _ = jax.jit(narrow.apply)({"params": params}, x)
  wanted, _ = jax.jit(layer.apply)({"params": params}, x.astype(np.float32))
  assert y.dtype == jnp.bfloat16
  # Hashes and routes may differ at a few tokens.
  error = np.abs(np.asarray(y, float) - np.asarray(wanted, float)).max(-1)
  assert np.median(error) < 2e-2 * np.abs(wanted).max()


def test_the_eigenvectors_of_a_bilinear_mlp_add_up_to_its_output():
  layer, params = prepared("bilinear_mlp")
  assert isinstance(layer, BilinearMLP)
  direction = np.random.default_rng(1).standard_normal(WIDTH)
  matrix = interaction(params, jnp.asarray(direction, jnp.float32))
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
  values, vectors = np.linalg.eigh(np.asarray(matrix, float))
  read = (X @ vectors) ** 2 @ values
  y, _ = layer.apply({"params": params}, X)
  assert relative_error(read, np.asarray(y, float) @ direction) < 1e-5


def test_a_grown_tokenformer_equals_the_old_one_before_training():
  layer, params = prepared("tokenformer", hidden=12)
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  larger = layer.clone(hidden=20, first_hidden=12)
  grown = grow(params, 20, jax.random.key(1))
  shapes = jax.eval_shape(larger.init, jax.random.key(0), X)["params"]
  assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, shapes)
  same, _ = jax.jit(larger.apply)({"params": grown}, X)
  np.testing.assert_allclose(same, y, rtol=1e-6, atol=1e-7)
  # The new keys learn: a step along the gradient changes the outputs.
  slope = jax.jit(
    jax.grad(lambda p: jnp.sum(jnp.sin(larger.apply({"params": p}, X)[0])))
  )(grown)
  assert np.abs(slope["key"][12:]).min() > 0
  again = grow(grown, 32, jax.random.key(2))
  last, _ = jax.jit(larger.clone(hidden=32).apply)({"params": again}, X)
  np.testing.assert_allclose(last, y, rtol=1e-6, atol=1e-7)
  with pytest.raises(ValueError, match="hidden must be at least 12"):
    grow(params, 9, jax.random.key(0))


def test_growth_without_the_old_factor_changes_the_model():
  layer, params = prepared("tokenformer", hidden=12)
  grown = grow(params, 20, jax.random.key(1))
  y, _ = layer.apply({"params": params}, X)
  other, _ = TokenFormer(WIDTH, hidden=20).apply({"params": grown}, X)
  assert relative_error(other, y) > 1e-2


def test_the_gradient_of_a_lookup_is_that_of_its_weight():
  """By finite differences, at z whose signs a small step does not change."""
  rng = np.random.default_rng(2)
  z = rng.standard_normal((3, 6))
  z = np.where(np.abs(z) < 0.1, 0.1, z)
  table = rng.standard_normal((2, 8, 4))
  with jax.enable_x64(True):
    loss = jax.jit(lambda z, table: jnp.sum(jnp.sin(hashed_lookup(z, table))))
    slopes = jax.jit(jax.grad(loss, (0, 1)))(z, table)
    for i in np.ndindex(z.shape):
      step = np.zeros(z.shape)
      step[i] = 1e-5
      slope = (loss(z + step, table) - loss(z - step, table)) / 2e-5
      np.testing.assert_allclose(slopes[0][i], slope, rtol=1e-6, atol=1e-9)
    used = (slopes[1] != 0).any(-1)
  rows = (z.reshape(3, 2, 3) >= 0) @ (2 ** np.arange(3))
  for g in range(2):
    np.testing.assert_array_equal(
      np.flatnonzero(used[g]), np.unique(rows[:, g])
    )


def test_no_token_of_a_sparse_moe_is_dropped():
  """Also if a router of zeros sends all tokens to the same experts."""
  layer, params = prepared("sparse_moe", experts=4, top_k=2, hidden=6)
  params = {**params, "router": jax.tree.map(jnp.zeros_like, params["router"])}
  y, sown = layer.apply({"params": params}, X, mutable="losses")
  wanted = sparse_moe(exact(params), X.astype(float), layer)
  assert relative_error(y[0], wanted) < 2e-5
  # Two of four experts take all choices; their mean score is 1/4.
  (loss,) = sown["losses"]["load_balance"]
  np.testing.assert_allclose(loss, 0.01 * 4 * (0.5 + 0.5) / 4, rtol=1e-5)


def test_all_experts_are_the_dense_mixture():
  layer, params = prepared("sparse_moe", experts=3, top_k=3, hidden=6)
  y, sown = layer.apply({"params": params}, X, mutable="losses")
  wanted = sparse_moe(exact(params), X.astype(float), layer)
  assert relative_error(y[0], wanted) < 2e-5
  assert "losses" not in sown  # There is nothing to balance.


@pytest.mark.parametrize(
  ("name", "fields", "match"),
  [
    ("sparse_moe", {"experts": 2, "top_k": 3}, "SparseMoE: top_k must be"),
    ("mlp", {"activation": "gelu2"}, "MLP: activation must be one of silu, "),
    ("sparse_moe", {"experts": 0}, "SparseMoE: experts must be at least 1"),
    (
      "memoryformer",
      {"bits": 3},
      "bits must divide D = 8, got 3",
    ),
    ("memoryformer", {"hidden": 17}, "and bits and hidden / 1 at most 16"),
    ("tokenformer", {"first_hidden": 0}, "first_hidden must be at least 1"),
  ],
)
def test_wrong_fields_are_named(name, fields, match):
  layer = MLPS[name](width=WIDTH, **fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(layer.init, jax.random.key(0), X)
