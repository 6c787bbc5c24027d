"""The partners of linear mixers in hybrids: what each is known for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import (
  FSMN,
  HaloAttention,
  Hopfield,
  MixtureOfHeads,
  NeighborhoodAttention,
  SoftmaxAttention,
)
from jaxmodels.mixers.hopfield import energy, retrieve
from jaxmodels.ops.attention import neighbors
from jaxmodels.testing.examples.mixers.neighborhood import plain

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 24, 8)).astype(np.float32)


def drawn(layer, x=X):
  variables = jax.jit(layer.init)(jax.random.key(0), x)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.3 * rng.normal(size=p.shape).astype(p.dtype),
    variables["params"],
  )


@pytest.mark.parametrize(
  "layer",
  [
    NeighborhoodAttention(8, heads=2, kernel_width=3, dilation=2, columns=6),
    pytest.param(
      NeighborhoodAttention(8, heads=2, kernel_width=5, columns=4),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      HaloAttention(8, heads=2, block_size=3, halo=2), marks=pytest.mark.slow
    ),
  ],
)
def test_images_are_dense_attention_under_its_mask(layer):
  params = drawn(layer)
  y, _ = jax.jit(layer.apply)({"params": params}, X)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  wanted = plain(exact, X[0].astype(np.float64), layer)
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())


def test_every_query_of_an_image_sees_as_many_tokens():
  """Windows are shifted at the edges, and read no other residue."""
  layer = NeighborhoodAttention(8, heads=2, kernel_width=3, columns=6)
  params = drawn(layer)
  slopes = jax.jit(
    jax.jacobian(lambda x: layer.apply({"params": params}, x)[0])
  )(X)
  reads = np.abs(slopes).max((0, 2, 3, 5)) > 0
  assert (reads.sum(1) == 9).all()
  corner = np.flatnonzero(reads[0])
  np.testing.assert_array_equal(corner, [0, 1, 2, 6, 7, 8, 12, 13, 14])


@pytest.mark.slow
@pytest.mark.parametrize(
  "layer",
  [
    NeighborhoodAttention(8, heads=2, kernel_width=5, dilation=3),
    # Keys further away than a chunk.
    NeighborhoodAttention(8, heads=2, kernel_width=5, columns=40),
    HaloAttention(8, heads=2, block_size=3, halo=2),
  ],
)
def test_long_sequences_run_in_chunks_and_over_devices(layer):
  x = RNG.normal(size=(1, 320, 8)).astype(np.float32)
  params = drawn(layer)
  ids = np.repeat([[0, 1, 2]], (150, 100, 70), -1)
  y, _ = jax.jit(layer.apply)({"params": params}, x, segment_ids=ids)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for start, end in ((0, 150), (150, 250), (250, 320)):
    wanted = plain(exact, x[0, start:end].astype(np.float64), layer)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(y[0, start:end], wanted, atol=2e-5 * scale)
  cut, along = layer.clone(axis_name="s"), jax.P(None, "s")
  for devices in (2, 4):  # With shards longer and shorter than a chunk.
    mesh = jax.make_mesh(
      (devices,), ("s",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    run = jax.shard_map(
      lambda x, ids: cut.apply({"params": params}, x, segment_ids=ids)[0],
      mesh=mesh, in_specs=along, out_specs=along,
    )  # fmt: skip
    np.testing.assert_allclose(jax.jit(run)(x, ids), y, atol=1e-5)


@pytest.mark.slow
def test_chunks_do_not_change_the_gradient_of_nearby_attention(monkeypatch):
  layer = NeighborhoodAttention(8, heads=2, kernel_width=5, columns=40)
  x = RNG.normal(size=(1, 320, 8)).astype(np.float32)
  params = drawn(layer)

  def slopes():
    def loss(params, x):
      return jnp.sum(jnp.sin(layer.apply({"params": params}, x)[0]))

    return jax.jit(jax.grad(loss, (0, 1)))(params, x)

  in_chunks = slopes()
  monkeypatch.setattr(neighbors, "_CHUNK", 320)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max()),
    in_chunks,
    slopes(),
  )


def test_no_update_raises_the_energy_and_a_pattern_is_found():
  patterns = RNG.normal(size=(5, 1, 16)).astype(np.float32)
  states = RNG.normal(size=(1, 40, 1, 16)).astype(np.float32)
  for beta in (0.2, 1.0, 8.0):
    known = [energy(states, patterns, beta)]
    for steps in range(1, 6):
      after = retrieve(states, patterns, beta, steps)
      known.append(energy(after, patterns, beta))
    assert (np.diff(known, axis=0) <= 1e-5).all()
    assert (known[1] < known[0]).all()
  stored = 4 * patterns / np.linalg.norm(patterns, axis=-1, keepdims=True)
  found = retrieve(stored[None] + 0.3 * states[:, :5], stored, 8.0, 2)
  np.testing.assert_allclose(found, stored[None], atol=1e-3)


def test_hopfield_without_steps_is_attention_and_learned_patterns_keep_none():
  layer = Hopfield(8, heads=2, steps=0)
  params = drawn(layer)
  attention = SoftmaxAttention(8, heads=2, rotary_fraction=0.0)
  got, wanted = jax.jit(
    lambda p: [m.apply({"params": p}, X)[0] for m in (layer, attention)]
  )(params)
  np.testing.assert_allclose(got, wanted, atol=1e-5)
  learned = Hopfield(8, heads=2, patterns=3, steps=2)
  params = drawn(learned)
  assert params["patterns"].shape == (3, 2, 4)
  assert not jax.tree.leaves(learned.init_state(1))


def test_equal_weights_of_all_heads_are_softmax_attention():
  layer = MixtureOfHeads(8, heads=4, shared_heads=1, active_heads=3)
  params = drawn(layer)
  routers = ("stage_router", "router")
  equal = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in routers}
  y, _ = jax.jit(layer.apply)({"params": {**params, **equal}}, X)
  rest = {name: p for name, p in params.items() if name not in routers}
  attention = SoftmaxAttention(8, heads=4)
  wanted, _ = jax.jit(attention.apply)({"params": rest}, X)
  np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_the_sown_loss_is_lowest_for_equal_loads():
  layer = MixtureOfHeads(8, heads=5, head_width=2, active_heads=1, balance=0.5)
  params = drawn(layer)
  # A router that sends token t to head t modulo 4, and one that sends all to 0.
  x = np.zeros((1, 24, 8), np.float32)
  x[0, np.arange(24), np.arange(24) % 4] = 1
  losses = []
  run = jax.jit(functools.partial(layer.apply, mutable="losses"))
  for kernel in (9 * np.eye(8, 4), 9 * np.eye(1, 4).repeat(8, 0)):
    kernel = kernel.astype(np.float32)
    own = {**params, "router": {"kernel": kernel}}
    _, sown = run({"params": own}, x)
    losses.append(sown["losses"]["load_balance"][0])
  np.testing.assert_allclose(losses[0], 0.5, rtol=1e-3)
  assert losses[1] > 1.9


def test_the_memory_of_fsmn_has_the_taps_of_its_dilations():
  layer = FSMN(8, layers=2, kernel_width=3)
  params = drawn(layer)
  at = X[:, :16]
  slopes = jax.jit(
    jax.jacobian(lambda x: layer.apply({"params": params}, x)[0][0, -1])
  )(at)
  reads = np.flatnonzero(np.abs(slopes).max((0, 1, 3)) > 0)
  # Two taps back by 1 and two by 2: up to 6 tokens.
  np.testing.assert_array_equal(15 - reads[::-1], np.arange(7))
