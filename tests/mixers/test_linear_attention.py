"""Linear attention with every feature map, and the stack of Based."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import LinearAttention
from jaxmodels.models import LanguageModel
from jaxmodels.ops.feature_maps import positive_random
from jaxmodels.testing import check_mixer
from jaxmodels.testing.examples.mixers.linear_attention import plain
from tests.models import recall

WIDTH, LENGTH = 8, 12
X = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
MAPS = {
  "identity": {"normalize": False},
  "relu": {"floor": 0.3},
  "softmax": {},
  "dpfp": {"key_width": 3, "value_width": 5},
  "cosformer": {"horizon": 10},
  "hedgehog": {"features": 3},
}


def layer_of(feature_map, **options):
  return LinearAttention(WIDTH, heads=2, feature_map=feature_map, **options)


@functools.cache
def drawn(layer):
  variables = jax.jit(layer.init)(jax.random.key(0), X)
  rng = np.random.default_rng(1)
  noise = lambda p: p + 0.2 * rng.normal(size=p.shape).astype(p.dtype)  # noqa: E731
  return {**variables, "params": jax.tree.map(noise, variables["params"])}


@pytest.mark.parametrize("name", MAPS)
def test_packed_documents_follow_the_equation(name):
  layer = layer_of(name, **MAPS[name])
  variables = drawn(layer)
  ids = np.repeat([[0, 1]], LENGTH // 2, -1).repeat(2, 0)
  y, _ = jax.jit(layer.apply)(variables, X, segment_ids=ids)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"])
  half = LENGTH // 2
  for start in (0, half):
    document = X[0, start : start + half].astype(np.float64)
    wanted = plain(exact, document, layer)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(
      y[0, start : start + half], wanted, rtol=0, atol=2e-5 * scale
    )


def test_the_normalised_form_is_the_row_normalised_masked_product():
  layer = layer_of("simplex_random", features=6)
  variables = drawn(layer)
  y, _ = jax.jit(layer.apply)(variables, X)
  p = variables["params"]
  q, k, v = (
    (X @ p[name]["kernel"]).reshape(2, LENGTH, 2, -1)
    for name in ("query", "key", "value")
  )
  w = variables["random_features"]["random_map"]["directions"]
  q, k = (np.asarray(positive_random(u / 4**0.25, w)) for u in (q, k))
  scores = np.einsum("bihf,bjhf->bhij", q, k) * np.tri(LENGTH)
  weights = scores / scores.sum(-1, keepdims=True)
  wanted = np.einsum("bhij,bjhv->bihv", weights, v).reshape(X.shape)
  wanted = wanted @ p["output"]["kernel"]
  np.testing.assert_allclose(y, wanted, atol=2e-5)


def test_random_features_are_shared_by_q_and_k_and_are_no_parameters():
  layer = layer_of("orthogonal_random", features=5)
  variables = drawn(layer)
  shapes = jax.tree.map(jnp.shape, variables["random_features"])
  assert shapes == {"random_map": {"directions": (5, 4)}}
  assert "random_map" not in variables["params"]
  # In a model each layer has its own, scanned or not.
  tokens = np.zeros((1, 4), np.int32)
  model = LanguageModel(7, WIDTH, 2, (layer,), mlp="none", scan_layers=True)
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  (both,) = jax.tree.leaves(variables["random_features"])
  assert both.shape == (2, 5, 4)
  assert np.abs(both[0] - both[1]).max() > 0.1


def test_any_function_is_a_feature_map():
  named, own = layer_of("elu_plus_one"), layer_of(lambda x: jax.nn.elu(x) + 1)
  params = drawn(named)
  wanted, _ = jax.jit(named.apply)(params, X)
  y, _ = jax.jit(own.apply)(params, X)
  np.testing.assert_allclose(y, wanted, atol=1e-6)
  with pytest.raises(ValueError, match="feature_map must be one of identity, "):
    layer_of("elu").init(jax.random.key(0), X)


@pytest.mark.slow
def test_based_is_a_stack_with_windows_of_64_and_short_convolutions():
  """Of names and options, as a config has it; packed, cut and continued."""
  model = LanguageModel(
    16,
    16,
    3,
    (
      ("based", {"heads": 2}),
      ("short_convolution", {"input_gate": False}),
      ("sliding_attention", {"heads": 2, "window": 64}),
    ),
  )
  tokens = np.random.default_rng(0).integers(0, 16, (1, 80))
  variables = jax.jit(model.init)(jax.random.key(0), tokens[:, :1])
  run = jax.jit(model.apply)
  logits, _ = run(variables, tokens)
  first, state = run(variables, tokens[:, :40], model.init_state(1))
  second, _ = run(variables, tokens[:, 40:], state)
  np.testing.assert_allclose(
    np.concatenate([first, second], 1), logits, atol=2e-5
  )
  # The window hides the first token from the last layer, but not from Based.
  other, _ = run(
    variables, np.concatenate([15 - tokens[:, :1], tokens[:, 1:]], 1)
  )
  assert np.abs(other[:, -1] - logits[:, -1]).max() > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [*MAPS, "taylor", "independent_random", "simplex_random"]
)
def test_the_contract_with_every_map(name):
  layer = LinearAttention(16, heads=2, feature_map=name, **MAPS.get(name, {}))
  check_mixer(layer, methods=("recurrent", "chunked"), verbose=False)


@pytest.mark.slow
def test_recall_rises_with_the_size_of_the_state():
  """Based recalls 8 pairs with K = 4 (21 features), not with K = 1 (three)."""
  pairs = 8
  right = []
  for key_width in (1, 4):
    model = LanguageModel(
      32,
      32,
      2,
      ("short_convolution", ("based", {"heads": 1, "key_width": key_width})),
      mlp="none",
    )
    init = jax.jit(model.init)
    variables = init(jax.random.key(0), recall.rows(0, 64, pairs)[0])
    variables = recall.trained(model, variables, 600, 5e-3, pairs=pairs)
    right.append(recall.accuracy(model, variables, pairs))
  assert right[0] < 0.4 and right[1] > 0.9
