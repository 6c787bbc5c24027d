"""RWKV-7 in a stack: the value of the first layer, and the published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import RWKV7
from jaxmodels.models import Backbone, LanguageModel
from jaxmodels.ops import dplr_recurrence
from jaxmodels.testing.examples.mixers.parts import dense, rms
from jaxmodels.testing.examples.mixers.rwkv7 import plain

DEPTH, WIDTH = 3, 8
X = np.random.default_rng(0).standard_normal((1, 9, WIDTH)).astype(np.float32)
OPTIONS = {"head_width": 4, "decay_rank": 2, "rate_rank": 2, "value_rank": 3}
OPTIONS["method"] = "recurrent"  # It compiles fastest.


def drawn(scan_layers):
  """A stack, and parameters of which none is at a special value."""
  model = Backbone(
    WIDTH, DEPTH, ("rwkv7",), {"rwkv7": OPTIONS}, mlp="none",
    scan_layers=scan_layers,
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: p + 0.3 * rng.standard_normal(p.shape).astype(p.dtype), params
  )
  return model, params


@pytest.mark.parametrize("scan_layers", [False, True])
def test_later_layers_mix_in_the_value_of_the_first(scan_layers):
  model, params = drawn(scan_layers)
  y, _ = jax.jit(model.apply)({"params": params}, X)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  x, first = X[0].astype(np.float64), None
  for i in range(DEPTH):
    if scan_layers:
      own = jax.tree.map(lambda p, i=i: p[i], exact["repeats"]["block_0"])
    else:
      own = exact[f"layer_{i}"]
    u, p = rms(x, own["mixer_norm"]["scale"]), own["mixer"]
    x = x + plain(p, u, RWKV7(WIDTH, head_width=4), first)
    if first is None:
      before = np.concatenate([np.zeros_like(u[:1]), u[:-1]])
      first = dense(p["value"], u + (before - u) * p["mix_value"])
  wanted = rms(x, exact["norm"]["scale"])
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_the_first_layer_of_its_kind_in_a_hybrid_mixes_no_value():
  model = Backbone(
    WIDTH, 2, ("gla", "rwkv7"), {"gla": {"heads": 2}, "rwkv7": OPTIONS},
    mlp="none",
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(0), X)["params"]

  def loss(params):
    y, _ = model.apply({"params": params}, X)
    return (y[..., 0] ** 3).sum()

  slopes = jax.jit(jax.grad(loss))(params)["layer_1"]["mixer"]
  assert not np.any(slopes["value_bias"])
  assert np.any(slopes["value"]["kernel"])


def test_initial_parameters_depend_on_the_layer_under_a_scan():
  """mu_r is 1 - (d / D)^(0.2 (1 - layer / depth)) in layer 0, 1, 2."""
  model = Backbone(
    WIDTH, DEPTH, ("rwkv7",), {"rwkv7": OPTIONS}, mlp="none", scan_layers=True
  )
  params = jax.jit(model.init)(jax.random.key(0), X[:, :1])["params"]
  found = params["repeats"]["block_0"]["mixer"]["mix_receptance"]
  power = 0.2 * (1 - np.arange(DEPTH) / DEPTH)[:, None]
  wanted = 1 - (np.arange(WIDTH) / WIDTH) ** power
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_parameters_of_rwkv7_191m():
  """RWKV-7 World 0.1B: 12 layers, width 768, 65,536 tokens."""
  model = LanguageModel(
    65536, 768, 12, ("rwkv7",), mlp="rwkv_channel_mix", norm="layer",
    input_norm=True, tie_embeddings=False,
  )  # fmt: skip
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 191_034_624


def test_negative_eigenvalues_stay_above_minus_one(monkeypatch):
  # With the rate 2 a_t the state of a trained layer grew by a fifth per token.
  given = {}

  def spy(r, k, v, a, b, log_w, **options):
    given.update(a=a, b=b, w=jnp.exp(log_w))
    return dplr_recurrence(r, k, v, a, b, log_w, **options)

  monkeypatch.setattr("jaxmodels.mixers.rwkv7.dplr_recurrence", spy)
  mixer = RWKV7(width=8, head_width=4, negative_eigenvalues=True)
  x = jax.random.normal(jax.random.key(0), (2, 9, 8))
  variables = mixer.init(jax.random.key(1), x)
  # Removal at the full rate, and decays of all sizes.
  bias = jnp.full(8, 20.0)
  params = {**variables["params"], "rate_bias": bias}
  params["decay_bias"] = jnp.linspace(-9.0, 9.0, 8)
  mixer.apply({"params": params}, x)
  a, b, w = (np.asarray(given[name], np.float64) for name in "abw")
  transitions = w[..., None] * np.eye(4) + a[..., None] * b[..., None, :]
  eigenvalues = np.linalg.eigvals(transitions)
  assert np.abs(eigenvalues).max() <= 1 + 1e-5
  assert eigenvalues.real.min() < -0.99
