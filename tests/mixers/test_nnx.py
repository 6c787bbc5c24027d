"""Every mixer works in a model of flax.nnx, by the bridge of Flax."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel

X = np.random.default_rng(0).standard_normal((2, 6, 32)).astype(np.float32)


# Of the others no submodule has another name than these have.
FAST = ("kda", "mamba2", "s5", "sliding_attention")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in MIXERS
  ],
)
def test_a_mixer_is_the_same_under_nnx(name):
  """So no submodule has the name of a method, which the bridge would take."""
  layer = MIXERS[name](width=32)
  bridged = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(X)
  attributes = nnx.state(bridged, nnx.Param)
  params = jax.tree.map(lambda x: x, nnx.to_pure_dict(attributes))
  wanted, state = layer.apply({"params": params}, X)
  y, leaving = bridged(X)
  np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
  step, _ = bridged(X[:, :1], leaving)
  alone, _ = layer.apply({"params": params}, X[:, :1], state)
  np.testing.assert_allclose(step, alone, rtol=1e-5, atol=1e-6)


def test_a_language_model_is_the_same_under_nnx():
  tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
  model = LanguageModel(13, 16, 2, ("gla", "gated_deltanet"))
  bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(tokens)
  params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
  wanted, _ = model.apply({"params": params}, tokens)
  logits, _ = bridged(tokens)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
