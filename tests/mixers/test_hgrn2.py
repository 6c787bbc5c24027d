"""HGRN2 in a stack: its lower bounds are those of the paper."""

import jax
import numpy as np
import pytest

from jaxmodels.mixers import HGRN2
from jaxmodels.models import Backbone
from jaxmodels.testing.examples.mixers.hgrn2 import plain

DEPTH, WIDTH = 3, 8
X = np.random.default_rng(0).standard_normal((1, 9, WIDTH)).astype(np.float32)


def drawn(scan_layers):
  model = Backbone(
    WIDTH, DEPTH, ("hgrn2",), {"hgrn2": {"heads": 2}}, mlp="none",
    scan_layers=scan_layers,
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]
  logits = np.random.default_rng(1).standard_normal((DEPTH, WIDTH))
  return model, {**params, "shared_lower_bounds": logits.astype(np.float32)}


def bounds(logits):
  shares = np.exp(logits) / np.exp(logits).sum(0)
  return np.cumsum(shares, 0) - shares[:1]


def test_the_bounds_of_a_stack_are_cumulative_shares():
  model, params = drawn(scan_layers=False)
  y, _ = jax.jit(model.apply)({"params": params}, X)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  lowest = bounds(exact["shared_lower_bounds"])
  assert not lowest[0].any() and (np.diff(lowest, axis=0) > 0).all()

  def normed(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * scale

  x, layer = X[0].astype(np.float64), HGRN2(WIDTH, heads=2)
  for i in range(DEPTH):
    own = exact[f"layer_{i}"]
    u = normed(x, own["mixer_norm"]["scale"])
    x = x + plain(own["mixer"], u, layer, lowest[i])
  wanted = normed(x, exact["norm"]["scale"])
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("scan_layers", [False, True])
def test_gradients_of_the_bounds_are_finite_and_not_zero(scan_layers):
  model, params = drawn(scan_layers)

  def loss(params):
    y, _ = model.apply({"params": params}, X)
    return (y[..., 0] ** 3).sum()

  slopes = jax.jit(jax.grad(loss))(params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
  assert np.abs(slopes["shared_lower_bounds"]).max() > 1e-4
