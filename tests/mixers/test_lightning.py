"""Lightning attention in a stack, and its decays."""

import jax
import numpy as np
import pytest

from jaxmodels.mixers import LightningAttention
from jaxmodels.models import Backbone
from jaxmodels.testing.examples.mixers.lightning import plain
from jaxmodels.testing.examples.mixers.parts import rms

DEPTH, WIDTH = 3, 8
X = np.random.default_rng(0).standard_normal((1, 9, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_decays_depend_on_the_layer(scan_layers):
  model = Backbone(
    WIDTH, DEPTH, (("lightning", {"heads": 2}),), mlp="none",
    scan_layers=scan_layers,
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]
  y, _ = jax.jit(model.apply)({"params": params}, X)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  x, layer = X[0].astype(np.float64), LightningAttention(WIDTH, heads=2)
  for i in range(DEPTH):
    own = exact.get(f"layer_{i}")
    if scan_layers:
      own = jax.tree.map(lambda p, i=i: p[i], exact["repeats"]["block_0"])
    u = rms(x, own["mixer_norm"]["scale"])
    x = x + plain(own["mixer"], u, layer, i, DEPTH)
  wanted = rms(x, exact["norm"]["scale"])
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_last_layer_hardly_forgets():
  """MiniMax-01's slopes: 2^-8 for the last head of layer 0, 0 at the end."""
  layer = LightningAttention(WIDTH, heads=4)
  params = jax.jit(layer.init)(jax.random.key(0), X[:, :1])
  once = {"layer": 0, "depth": 4}
  _, start = layer.apply(params, X[:, :1], **once)
  for place, share in ((0, 1), (1, 2 / 3), (3, 0)):
    later = {"layer": place, "depth": 4}
    silent = np.zeros_like(X[:, :1])
    _, state = layer.apply(params, silent, start, **later)
    kept = np.log(np.abs(state / start).mean((0, 2, 3)))
    slopes = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])
    np.testing.assert_allclose(-kept, slopes * share, atol=1e-5)
