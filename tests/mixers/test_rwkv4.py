"""RWKV-4: weights of any size, and the published size."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers import RWKVChannelMix
from jaxmodels.mixers import RWKV4
from jaxmodels.models import LanguageModel
from jaxmodels.testing.examples.mixers.parts import dense, sigmoid
from jaxmodels.testing.examples.mixers.rwkv4 import plain

X = np.random.default_rng(0).standard_normal((1, 9, 8)).astype(np.float32)


def drawn(layer):
  """Parameters of which none is at a special value."""
  params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.3 * rng.standard_normal(p.shape).astype(p.dtype), params
  )


def exact(params):
  return jax.tree.map(lambda p: np.asarray(p, np.float64), params)


def test_keys_whose_exponentials_are_beyond_float32():
  """The mean is that of the equation in float64, where e^300 is a number."""
  layer = RWKV4(8)
  params = drawn(layer)
  params["key"] = jax.tree.map(lambda p: 100 * p, params["key"])
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  p = exact(params)
  before = np.concatenate([np.zeros_like(X[0, :1]), X[0, :-1]])
  mu = p["mix_key"]
  keys = dense(p["key"], mu * X[0] + (1 - mu) * before)
  assert keys.max() > 100 and keys.min() < -100  # e^89 is infinite in float32.
  wanted = plain(p, X[0].astype(np.float64), layer)
  np.testing.assert_allclose(y[0], wanted, atol=2e-4 * np.abs(wanted).max())


def test_the_channel_mix_of_rwkv4():
  """Each mu is the share of the token itself, and the hidden width is 4 D."""
  layer = RWKVChannelMix(8, receptance=True, own_share=True)
  params = drawn(layer)
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  p, x = exact(params), X[0].astype(np.float64)
  before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
  key, receptance = (
    dense(p[name], p[f"mix_{name}"] * x + (1 - p[f"mix_{name}"]) * before)
    for name in ("key", "receptance")
  )
  assert key.shape == (9, 32)
  hidden = np.maximum(key, 0) ** 2
  wanted = sigmoid(receptance) * dense(p["output"], hidden)
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_parameters_of_rwkv_4_169m():
  """12 layers, width 768, 50,277 tokens."""
  model = LanguageModel(
    50277, 768, 12, ("rwkv4",), mlp="rwkv_channel_mix",
    mlp_options={"receptance": True, "own_share": True}, norm="layer",
    input_norm=True, tie_embeddings=False,
  )  # fmt: skip
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 169_342_464
