"""Every mixer works in a model of flax.nnx, by the bridge of Flax."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from tests.mixers import slow_but

X = np.random.default_rng(0).standard_normal((2, 6, 32)).astype(np.float32)


# Of the others no submodule has another name than these have.
FAST = ("kda", "mamba2", "s5", "sliding_attention")


@pytest.mark.parametrize("name", slow_but(MIXERS, FAST))
def test_a_mixer_is_the_same_under_nnx(name):
  """So no submodule has the name of a method, which the bridge would take."""
  layer = MIXERS[name](width=32)

  @jax.jit
  def results(x):
    bridged = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(x)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    y, leaving = bridged(x)
    return params, y, bridged(x[:, :1], leaving)[0]

  @jax.jit
  def wanted(params, x):
    y, state = layer.apply({"params": params}, x)
    return y, layer.apply({"params": params}, x[:, :1], state)[0]

  params, y, step = results(X)
  expected = wanted(params, X)
  np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(step, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_language_model_is_the_same_under_nnx():
  tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
  model = LanguageModel(13, 16, 2, ("gla", "gated_deltanet"))

  @jax.jit
  def results(tokens):
    bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(tokens)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    return params, bridged(tokens)[0]

  params, logits = results(tokens)
  wanted, _ = jax.jit(model.apply)({"params": params}, tokens)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
