"""Options of the sparse mixture of experts, by a loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import SparseMoE
from jaxmodels.layers.experts import map_by_experts
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples.mixers import parts as plain

WIDTH = 8
X = np.random.default_rng(0).standard_normal((2, 9, WIDTH)).astype(np.float32)
ACTIVATIONS = {
  "silu": plain.silu,
  "gelu_tanh": plain.gelu,
  "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def drawn(layer, seed=1):
  """Parameters without special values."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
  return jax.tree.map(
    lambda p: rng.normal(size=p.shape).astype(p.dtype) / 2, shapes
  )


def mlp(p, x, layer, expert=...):
  """One expert, or the shared one."""

  def dense(name, x):
    own = p[name]
    return plain.dense(own, x) if isinstance(own, dict) else x @ own[expert]

  act = ACTIVATIONS[layer.activation]
  if layer.gated:
    hidden = act(dense("gate", x)) * dense("value", x)
  else:
    hidden = act(dense("input", x))
  return dense("output", hidden)


def choices(p, logits, layer):
  """The chosen experts of a token, and their weights."""
  score = (
    plain.softmax(logits)
    if layer.router == "softmax"
    else plain.sigmoid(logits)
  )
  by = score + p.get("router_bias", 0)
  if layer.top_groups is not None:
    size = layer.experts // layer.groups
    worth = [
      np.sort(by[g * size : (g + 1) * size])[-2:].sum()
      for g in range(layer.groups)
    ]
    for g in np.argsort(worth)[: layer.groups - layer.top_groups]:
      by[g * size : (g + 1) * size] = -np.inf
  chosen = np.argsort(-by)[: layer.top_k]
  weights = score[chosen]
  if layer.normalize:
    weights = weights / (weights.sum() + layer.normalize_epsilon)
  return chosen, weights * layer.routed_scale


def equation(p, x, layer):
  out = np.zeros(x.shape)
  for place in np.ndindex(x.shape[:-1]):
    u = x[place]
    inner = plain.dense(p["latent_input"], u) if layer.latent else u
    chosen, weights = choices(p, plain.dense(p["router"], u), layer)
    y = sum(
      w * mlp(p, inner, layer, e) for e, w in zip(chosen, weights, strict=True)
    )
    if layer.latent:
      y = plain.dense(p["latent_output"], y)
    if layer.shared_hidden:
      shared = mlp(p["shared"], u, layer)
      if layer.shared_gate:
        shared = shared * plain.sigmoid(plain.dense(p["shared_gate"], u))
      y = y + shared
    out[place] = y
  return out


CASES = {
  "softmax without normalised weights": {"normalize": False, "top_k": 3},
  "a gated shared expert": {"shared_hidden": 5, "shared_gate": True},
  "sigmoid, bias, groups and a shared expert": {
    "router": "sigmoid",
    "router_bias": True,
    "groups": 3,
    "top_groups": 2,
    "top_k": 3,
    "routed_scale": 2.5,
    "shared_hidden": 4,
  },
  "experts without a gate in a latent width": {
    "router": "sigmoid",
    "router_bias": True,
    "normalize_epsilon": 0.1,
    "gated": False,
    "activation": "relu2",
    "latent": 5,
    "shared_hidden": 7,
    "use_bias": True,
  },
}


@pytest.mark.parametrize("name", CASES)
def test_options_follow_the_equation(name):
  """Every parameter but the bias of the choice has a gradient, too."""
  layer = SparseMoE(WIDTH, hidden=6, experts=6, **CASES[name])
  params = drawn(layer)

  def loss(params):
    y, _ = layer.apply({"params": params}, X)
    return jnp.sum(jnp.sin(y)), y

  slopes, y = jax.jit(jax.grad(loss, has_aux=True))(params)
  exact = jax.tree.map(lambda p: np.asarray(p, float), params)
  assert relative_error(y, equation(exact, X.astype(float), layer)) < 2e-5
  bias = slopes.pop("router_bias", None)
  assert bias is None or not np.any(bias)
  for slope in jax.tree.leaves(slopes):
    assert np.isfinite(slope).all() and np.abs(slope).max() > 1e-6


def test_the_bias_chooses_and_does_not_weigh():
  """Float32 in a bfloat16 layer; a large bias takes all choices."""
  layer = SparseMoE(
    WIDTH, hidden=6, experts=4, top_k=1, router="sigmoid", normalize=False,
    router_bias=True, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16,
  )  # fmt: skip
  x = X.astype(jnp.bfloat16)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
  assert shapes["router_bias"].dtype == np.float32
  params = drawn(layer) | {"router_bias": np.array([0, 0, 1, 0], np.float32)}
  run = jax.jit(lambda p: layer.apply({"params": p}, x, mutable="losses"))
  y, sown = run(params)
  others = np.array([1, 1, 0, 1])[:, None, None]
  changed = params | {
    name: (params[name] + others).astype(params[name].dtype)
    for name in ("gate", "value", "output")
  }
  np.testing.assert_array_equal(run(changed)[0][0], y[0])
  # All tokens use one of four experts, whose share of the scores is near 1/4.
  (loss,) = sown["losses"]["load_balance"]
  assert 0.5 < loss / 0.01 < 1.5


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"router": "tanh"}, 'router must be "softmax" or "sigmoid", got \'tanh\''),
    ({"groups": 3}, "groups must divide the number of choices 8, got 3"),
    ({"groups": 4, "top_groups": 5}, "top_groups must be between 1 and groups"),
    ({"groups": 4, "top_groups": 1, "top_k": 3}, "top_k = 3 choices in these"),
    ({"shared_gate": True}, "set shared_hidden too"),
    ({"activation": "swish"}, "activation must be one of silu, gelu"),
  ],
)
def test_wrong_options_are_named(fields, match):
  layer = SparseMoE(WIDTH, **fields)
  with pytest.raises(ValueError, match=f"SparseMoE: .*{match}"):
    jax.eval_shape(layer.init, jax.random.key(0), X)


@pytest.mark.parametrize("tokens", [1, 3, 30])
def test_on_a_cpu_blocks_of_rows_are_the_sorted_rows(tokens):
  """Experts with many rows, one or none; gradients are those of sorted rows."""
  rng = np.random.default_rng(tokens)
  expert = np.sort(rng.choice([0, 0, 0, 2, 4], 2 * tokens)).astype(np.int32)
  rows = rng.normal(size=(2 * tokens, 3)).astype(np.float32)
  kernels = {
    name: rng.normal(size=(6, 3, 3)).astype(np.float32)
    for name in ("gate", "value", "output")
  }
  run = jax.jit(lambda *given: map_by_experts(jax.nn.silu, *given))
  wanted = np.stack([
    (plain.silu(x @ kernels["gate"][e]) * (x @ kernels["value"][e]))
    @ kernels["output"][e]
    for x, e in zip(rows, expert, strict=True)
  ])  # fmt: skip
  assert relative_error(run(rows, expert, kernels), wanted) < 1e-5
  value = str(jax.make_jaxpr(run)(rows, expert, kernels))
  assert "while" in value.split("jvp_jaxpr")[0]
  slope = jax.make_jaxpr(
    jax.grad(lambda rows: jnp.sum(run(rows, expert, kernels)))
  )(rows)
  assert "while" not in str(slope) and "ragged_dot" in str(slope)
