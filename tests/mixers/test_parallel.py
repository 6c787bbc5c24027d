"""Mixers beside one another on one input."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmodels.mixers import GLA, RWKV7, Parallel, SlidingAttention
from jaxmodels.models import Backbone

X = np.zeros((1, 3, 16), np.float32)
ATTENTION = SlidingAttention(16, heads=2, window=3)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"input_factors": (1.0,)}, "input_factors must be 2 numbers, one per mix"),
    ({"output_factors": (1, "2")}, "output_factors must be 2 numbers, one per"),
    (
      {"mixers": (nn.Dense(16),), "reverse": True},
      "Dense has no field reverse",
    ),
    (
      {"mixers": (nn.Dense(16),), "axis_name": "s"},
      "Dense has no field axis_n",
    ),
  ],
)
def test_wrong_fields_are_named(fields, match):
  layer = Parallel(16, **fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(layer.init, jax.random.key(0), X)


@pytest.mark.parametrize(
  "scan_layers", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_shared_values_pass_through_its_mixers(scan_layers):
  """RWKV-7 as the only branch is RWKV-7, which reads its first layer."""
  inner = RWKV7(16, head_width=4)
  alone = Backbone(16, 2, (inner,), mlp="none", scan_layers=scan_layers)
  model = alone.clone(mixers=(Parallel(16, mixers=(inner,)),))
  x = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
  params = jax.jit(alone.init)(jax.random.key(0), x)["params"]
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
  )

  def nested(tree):
    return {
      name: {"branch_0": own}
      if name == "mixer"
      else nested(own)
      if isinstance(own, dict)
      else own
      for name, own in tree.items()
    }

  wanted, _ = jax.jit(alone.apply)({"params": params}, x)
  y, _ = jax.jit(model.apply)({"params": nested(params)}, x)
  np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)


def test_options_of_the_whole_reach_the_mixers():
  layer = Parallel(
    16, mixers=(GLA(16, heads=2), ATTENTION), reverse=True, chunk_size=8
  )
  for mixer in layer._inner():
    assert mixer.reverse and mixer.chunk_size == 8 and mixer.method == "auto"
