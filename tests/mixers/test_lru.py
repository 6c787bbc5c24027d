"""LRU and RG-LRU start as in their papers, and keep the norm of the input."""

import jax
import numpy as np

from jaxmodels.mixers import LRU, RGLRU
from jaxmodels.models import LanguageModel


def initial(layer, seed=0):
  x = jax.ShapeDtypeStruct((1, 2, layer.width), np.float32)
  params = jax.jit(
    lambda key: layer.init(key, np.zeros(x.shape, np.float32))["params"]
  )(jax.random.key(seed))
  return jax.tree.map(lambda p: np.asarray(p, np.float64), params)


def test_lru_starts_on_a_ring():
  params = initial(LRU(4, 4000, 0.5, 0.9, phase_max=1.5))
  radius = np.exp(-np.exp(params["log_decay_rate"]))
  # Uniform over the area of the ring: its square is uniform.
  areas = (radius**2 - 0.5**2) / (0.9**2 - 0.5**2)
  phases = np.exp(params["log_frequency"]) / 1.5
  for share in (areas, phases):
    assert share.min() > -1e-5 and share.max() < 1 + 1e-5
    counts, _ = np.histogram(share, 4, (-1e-5, 1 + 1e-5))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
  np.testing.assert_allclose(
    np.exp(params["log_gain"]), np.sqrt(1 - radius**2), rtol=1e-4
  )


def test_lru_keeps_the_norm_of_white_noise_at_the_start():
  layer = LRU(8, 32, 0.9, 0.99)
  params = initial(layer)
  x = np.random.default_rng(0).standard_normal((256, 500, 8))
  _, state = jax.jit(layer.apply)(
    {"params": jax.tree.map(np.float32, params)}, x.astype(np.float32)
  )
  written = (params["B"] ** 2).sum((0, 2))  # The variance of B x.
  kept = np.mean(np.abs(state.state) ** 2, 0) / written
  # 256 rows, 32 channels.
  assert abs(kept.mean() - 1) < 5 / np.sqrt(256 * 32)


def test_rg_lru_starts_with_the_decays_of_its_paper():
  params = initial(RGLRU(4, lru_width=4000, heads=1000))
  slowest = np.exp(-8 * np.log1p(np.exp(params["Lambda"])))  # a^c.
  share = (slowest - 0.9) / 0.099
  assert share.min() > -1e-3 and share.max() < 1 + 1e-3
  assert abs(share.mean() - 0.5) < 5 / np.sqrt(12 * 4000)


def test_recurrentgemma_2b_has_the_parameters_of_its_release():
  model = LanguageModel(
    256_000,
    2560,
    26,
    (
      ("rg_lru", {"heads": 10}),
      ("rg_lru", {"heads": 10}),
      ("sliding_attention", {"heads": 10, "kv_heads": 1, "window": 2048}),
    ),
    mlp=("gated_mlp", {"hidden": 7680}),
  )
  tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  # What is missing are biases: of 26 MLPs, and of 8 outputs of attention.
  assert count + 26 * (2 * 7680 + 2560) + 8 * 2560 == 2_682_862_080
  assert count > 0.99 * 2_682_862_080
