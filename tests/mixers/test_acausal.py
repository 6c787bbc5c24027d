"""Mixers that read both ways: their forms agree, and what each is known for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import (
  GLA,
  LION,
  Bidirectional,
  Galerkin,
  LightningAttention,
  Soft,
)
from jaxmodels.mixers.soft import newton_inverse
from jaxmodels.models import Backbone
from jaxmodels.testing.examples.mixers import bidirectional, lightning
from jaxmodels.testing.examples.mixers.parts import rms

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 16, 8)).astype(np.float32)
IDS = np.repeat([[0, 1, 0]], (5, 3, 8), -1).repeat(2, 0)


def drawn(layer, x=X):
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.2 * rng.normal(size=p.shape).astype(p.dtype), params
  )


def run(layer, params, x=X, ids=None):
  return jax.jit(layer.apply)({"params": params}, x, segment_ids=ids)[0]


@pytest.mark.parametrize("decay", ["none", "fixed", "selective"])
def test_lion_is_one_layer_in_three_forms(decay):
  """The masked product, one RNN from each end, and chunks."""
  layer = LION(8, heads=2, decay=decay)
  params = drawn(layer)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  wanted = np.concatenate(
    [
      bidirectional.plain(exact, X[0, start:end].astype(np.float64), layer)
      for start, end in ((0, 5), (5, 8), (8, 16))
    ]
  )
  for method in ("quadratic", "recurrent", "chunked"):
    y = run(layer.clone(method=method, chunk_size=4), params, ids=IDS)
    np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


def test_tied_directions_are_one_mixer_on_the_flipped_sequence():
  inner = GLA(8, heads=2, gate_rank=2)
  layer = Bidirectional(8, mixer=inner, tied=True)
  params = drawn(layer)
  assert set(params) == {"both"}
  y = run(layer, params, ids=IDS)
  ahead = run(inner, params["both"], ids=IDS)
  back = run(inner, params["both"], X[:, ::-1], IDS[:, ::-1])[:, ::-1]
  np.testing.assert_allclose(y, ahead + back, atol=1e-5)
  # So a flipped input gives the flipped output.
  np.testing.assert_allclose(
    run(layer, params, X[:, ::-1]), run(layer, params)[:, ::-1], atol=1e-5
  )


def test_the_mixer_inside_knows_its_layer():
  depth, width = 2, 8
  inner = LightningAttention(width, heads=2)
  model = Backbone(
    width, depth, (("bidirectional", {"mixer": inner}),), mlp="none",
    scan_layers=True,
  )  # fmt: skip
  x = X[:1]
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  y, _ = jax.jit(model.apply)({"params": params}, x)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  h = x[0].astype(np.float64)
  for i in range(depth):
    own = jax.tree.map(lambda p, i=i: p[i], exact["repeats"]["block_0"])
    u = rms(h, own["mixer_norm"]["scale"])
    ahead = lightning.plain(own["mixer"]["ahead"], u, inner, i, depth)
    back = lightning.plain(own["mixer"]["back"], u[::-1], inner, i, depth)
    h = h + ahead + back[::-1]
  wanted = rms(h, exact["norm"]["scale"])
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_mixer_without_a_direction_is_refused():
  layer = Bidirectional(8, mixer=nn.Dense(8))
  with pytest.raises(ValueError, match="mixer must have a field reverse"):
    layer.init(jax.random.key(0), X)


def test_galerkin_is_an_operator_on_functions():
  """Twice as many samples of one function change the outputs little."""
  layer = Galerkin(8, heads=2)

  def sampled(count):
    t = (np.arange(count) + 0.5) / count
    waves = [np.sin((i + 1) * np.pi * t + i) for i in range(8)]
    return np.stack(waves, -1)[None].astype(np.float32)

  params = drawn(layer, sampled(16))
  coarse, fine = (run(layer, params, sampled(n)) for n in (128, 384))
  # Every third sample of the fine grid is at a sample of the coarse one.
  np.testing.assert_allclose(fine[:, 1::3], coarse, atol=2e-3)
  assert np.abs(coarse).max() > 0.1


def test_newton_gives_the_inverse_and_its_gradient():
  with jax.enable_x64(True):
    roots = RNG.normal(size=(3, 5, 5))
    A = roots @ np.swapaxes(roots, 1, 2) / 5 + 0.3 * np.eye(5)
    weights = RNG.normal(size=A.shape)
    got, pull = jax.vjp(lambda a: newton_inverse(a, 30), jnp.asarray(A))
    wanted, exact = jax.vjp(jnp.linalg.pinv, jnp.asarray(A))
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8)
    slopes = pull(jnp.asarray(weights))[0]
    np.testing.assert_allclose(
      slopes, exact(jnp.asarray(weights))[0], rtol=1e-6, atol=1e-6
    )
    # Directions that A does not have are left out, as in pinv.
    flat = A[0, :, :3] @ A[0, :, :3].T
    np.testing.assert_allclose(
      newton_inverse(jnp.asarray(flat), 40), np.linalg.pinv(flat), atol=1e-5
    )
    one = np.eye(4)
    np.testing.assert_allclose(newton_inverse(jnp.asarray(one)), one)


def test_soft_with_a_landmark_per_token_is_its_gaussian_kernel():
  layer = Soft(8, heads=2, landmarks=16, steps=40)
  params = drawn(layer)
  y = run(layer, params, 2 * X)
  p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
  q, v = (
    (2 * X[0] @ p[name]["kernel"]).reshape(16, 2, 4)
    for name in ("query", "value")
  )
  out = np.zeros(v.shape)
  for h in range(2):
    distance = ((q[:, None, h] - q[None, :, h]) ** 2).sum(-1)
    S = np.exp(-distance / 4)
    scale = 1 / np.sqrt(S.sum(1))
    out[:, h] = scale[:, None] * S * scale @ v[:, h]
  wanted = out.reshape(16, 8) @ p["output"]["kernel"]
  np.testing.assert_allclose(y[0], wanted, atol=1e-3 * np.abs(wanted).max())


def test_too_many_segments_for_soft_are_not_silent():
  layer = Soft(8, heads=2, landmarks=2, max_segments=2)
  y = run(layer, drawn(layer), ids=IDS)
  assert np.isnan(y[:, 8:]).all() and np.isfinite(y[:, :8]).all()


@pytest.mark.slow
def test_costs_grow_linearly_with_the_length():
  """The largest array of a compiled forward pass, per token."""
  for layer in (Galerkin(8, heads=2), Soft(8, heads=2, landmarks=4)):
    params = drawn(layer)
    sizes = []
    for length in (512, 4096):
      x = jax.ShapeDtypeStruct((1, length, 8), np.float32)
      compiled = jax.jit(layer.apply).lower({"params": params}, x).compile()
      sizes.append(compiled.memory_analysis().temp_size_in_bytes / length)
    assert sizes[1] < 1.5 * sizes[0]
