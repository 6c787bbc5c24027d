"""Mixture of memories: its special cases, and which memories change."""

import jax
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.mixers import GatedDeltaNet, MixtureOfMemories
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples.mixers import parts as plain

X = np.random.default_rng(0).standard_normal((2, 21, 8)).astype(np.float32)
HEADS, COUNT = 2, 3


def prepared(**fields):
  layer = MixtureOfMemories(8, heads=HEADS, memories=COUNT, **fields)
  return layer, jax.jit(layer.init)(jax.random.key(0), X)["params"]


def chosen(params, top_k):
  """The memories [B, L, top_k] that each token chooses."""
  scores = X @ params["router"]["kernel"]
  return np.argsort(-scores, -1)[..., :top_k]


def test_one_memory_is_the_plain_mixer():
  layer = MixtureOfMemories(
    8, heads=HEADS, memories=1, top_k=1, shared_memory=False
  )
  params = jax.jit(layer.init)(jax.random.key(0), X)["params"]
  y, state = jax.jit(layer.apply)({"params": params}, X)
  del params["router"]
  base = GatedDeltaNet(8, heads=HEADS)
  wanted, last = jax.jit(base.apply)({"params": params}, X)
  assert relative_error(y, wanted) < 1e-6
  assert relative_error(state.state, last.state) < 1e-6


def test_only_the_chosen_memories_change():
  layer, params = prepared(top_k=1)
  routes = chosen(params, 1)[..., 0]
  step = jax.jit(lambda x, state: layer.apply({"params": params}, x, state))
  state = layer.init_state(2)
  for t in range(8):
    before = np.asarray(state.state).reshape(2, HEADS, COUNT + 1, -1)
    _, state = step(X[:, t : t + 1], state)
    after = np.asarray(state.state).reshape(before.shape)
    changed = (before != after).any((1, 3))
    wanted = np.arange(COUNT) == routes[:, t : t + 1]
    np.testing.assert_array_equal(changed[:, :COUNT], wanted)
    assert changed[:, COUNT].all()  # The shared memory.


@pytest.mark.slow
def test_the_states_are_those_of_the_tokens_packed_by_memory():
  """Each memory is the delta rule over its own tokens, one after another."""
  layer, params = prepared(top_k=2, shared_memory=False, kernel_width=1)
  _, state = jax.jit(layer.apply)({"params": params}, X)
  memories = np.asarray(state.state).reshape(2, HEADS, COUNT, 4, 4)
  p = jax.tree.map(lambda p: np.asarray(p, float), params)
  k, v = (
    plain.convolve(p[f"{name}_convolution"], X[0] @ p[name]["kernel"]).reshape(
      -1, HEADS, COUNT, 4
    )
    for name in ("key", "value")
  )
  beta = plain.sigmoid(X[0] @ p["beta"]["kernel"]).reshape(k.shape[:3])
  decay = plain.softplus(X[0] @ p["decay"]["kernel"] + p["dt_bias"])
  decay = (-np.exp(p["A_log"]) * decay).reshape(k.shape[:3])
  routes = chosen(params, 2)[0]
  for m in range(COUNT):
    own = (routes == m).any(-1)
    assert 0 < own.sum() < len(own)
    drawn = (plain.unit(k), plain.unit(k), v, beta, decay)
    packed = (x[own, :, m][None].astype(np.float32) for x in drawn)
    _, last = ops.delta_rule(*packed)
    assert relative_error(memories[0, :, m], last[0]) < 1e-5


def test_the_load_balance_loss_is_sown():
  layer, params = prepared(top_k=2, balance_loss=0.5)
  _, sown = jax.jit(lambda p: layer.apply({"params": p}, X, mutable="losses"))(
    params
  )
  scores = np.exp(X @ np.asarray(params["router"]["kernel"]))
  scores = (scores / scores.sum(-1, keepdims=True)).mean((0, 1))
  routes = chosen(params, 2)
  load = np.array([(routes == m).mean() for m in range(COUNT)])
  (loss,) = sown["losses"]["load_balance"]
  np.testing.assert_allclose(loss, 0.5 * COUNT * load @ scores, rtol=1e-5)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"top_k": 4}, "top_k must be between 1 and the number of choices 3"),
    ({"rule": "rnn"}, "rule must be one of .*, got 'rnn'"),
    ({"memories": 0}, "memories must be at least 1, got 0"),
  ],
)
def test_wrong_fields_are_named(fields, match):
  layer = MixtureOfMemories(8, heads=HEADS, **{"memories": COUNT, **fields})
  with pytest.raises(ValueError, match=f"MixtureOfMemories: {match}"):
    layer.init_state(1)
