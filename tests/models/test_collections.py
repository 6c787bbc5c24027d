"""Random streams and variables of mixers survive `scan_layers` and `remat`.

So do those of channel mixers: each test runs with the noise in either.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLPS
from jaxmodels.mixers import MIXERS
from jaxmodels.models import Backbone
from tests.models.stacks import Leaky

DEPTH, WIDTH = 4, 6
X = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)


class Noisy(nn.Module):
  """Dropout, frozen random features, a running mean and a sown loss."""

  width: int
  output_scale: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    def draw():
      key = self.make_rng("params")
      return jax.random.normal(key, (self.width, self.width))

    x = nn.Dense(self.width)(
      x @ self.variable("frozen", "features", draw).value
    )
    self.sow("losses", "size", jnp.mean(x * x))
    mean = self.variable("stats", "mean", jnp.zeros, ())
    if self.is_mutable_collection("stats"):
      mean.value = mean.value + jnp.mean(jnp.abs(x))
    # Two random streams; a stream without a key adds nothing.
    for stream in ("dropout", "noise"):
      if self.has_rng(stream):
        mask = jax.random.bernoulli(self.make_rng(stream), 0.5, x.shape)
        self.sow("masks", stream, mask)
        x = jnp.where(mask, 2 * x, 0)
    return x, state

  def init_state(self, batch_size):
    return None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  for table in (MIXERS, MLPS):
    monkeypatch.setitem(table, "noisy", Noisy)
    monkeypatch.setitem(table, "noisy_too", Noisy)


@pytest.fixture(params=["mixer", "mlp"])
def part(request):
  """The half of every layer that is random."""
  return request.param


def build(part, scan_layers, remat="none"):
  noisy = ("noisy", "noisy_too")
  return Backbone(
    WIDTH,
    DEPTH,
    noisy if part == "mixer" else (Leaky(), Leaky()),
    mlp=noisy if part == "mlp" else "none",
    scan_layers=scan_layers,
    remat=remat,
  )


def scanned_from(variables):
  """Stacks the variables of an unrolled stack, as in a scanned stack."""

  def restack(collection):
    layers = [collection[f"layer_{i}"] for i in range(DEPTH)]
    rounds = {
      f"block_{j}": jax.tree.map(lambda *x: jnp.stack(x), *layers[j::2])
      for j in range(2)
    }
    rest = {k: v for k, v in collection.items() if k[:6] != "layer_"}
    return {**rest, "repeats": rounds}

  return {name: restack(collection) for name, collection in variables.items()}


@functools.cache
def initial(part, scan_layers):
  return jax.jit(build(part, scan_layers).init)(jax.random.key(0), X)


def variables_of(part, scan_layers):
  variables = dict(initial(part, scan_layers))
  # `init` sows too. Drop its values, so that only those of the call remain.
  variables.pop("losses")
  variables.pop("masks", None)
  return variables


@pytest.mark.parametrize("remat", ["none", "full"])
def test_every_collection_equals_that_of_the_unrolled_stack(part, remat):
  unrolled = variables_of(part, False)
  names = ["losses", "stats"]

  def run(model, variables):
    apply = functools.partial(model.apply, mutable=names)
    return jax.jit(apply)(variables, X)

  (wanted, _), after = run(build(part, False, remat), unrolled)
  model = build(part, True, remat)
  (y, _), got = run(model, scanned_from(unrolled))
  np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
  after = scanned_from(after)
  assert jax.tree.structure(dict(got)) == jax.tree.structure(after)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(after), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  # Without keys the call is deterministic; without `mutable` nothing changes.
  again, _ = jax.jit(model.apply)(scanned_from(unrolled), X)
  np.testing.assert_array_equal(again, y)


def test_scanned_layers_have_separate_initial_variables(part):
  shapes = jax.tree.map(jnp.shape, scanned_from(variables_of(part, False)))
  variables = variables_of(part, True)
  assert jax.tree.map(jnp.shape, variables) == shapes
  for block in variables["frozen"]["repeats"].values():
    features = block[part]["features"]
    assert np.abs(features[0] - features[1]).max() > 0.1


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("stream", ["dropout", "noise"])
def test_each_layer_draws_its_own_numbers_from_each_stream(
  part, scan_layers, stream
):
  model = build(part, scan_layers)
  variables = variables_of(part, scan_layers)
  rngs = {stream: jax.random.key(1)}
  run = jax.jit(functools.partial(model.apply, mutable=["masks"]))
  (y, _), sown = run(variables, X, rngs=rngs)
  masks = np.concatenate(
    [np.reshape(leaf, (-1, X.size)) for leaf in jax.tree.leaves(sown)]
  )
  assert masks.shape[0] == DEPTH
  assert len({mask.tobytes() for mask in masks}) == DEPTH
  silent, _ = jax.jit(model.apply)(variables, X)
  assert np.abs(y - silent).max() > 0.1


@pytest.mark.parametrize(
  "scan_layers", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_rematerialised_layers_draw_the_same_numbers_again(part, scan_layers):
  variables = variables_of(part, scan_layers)
  params = variables.pop("params")

  def slopes(remat):
    def loss(params):
      y, _ = build(part, scan_layers, remat).apply(
        {"params": params, **variables}, X, rngs={"dropout": jax.random.key(1)}
      )
      return jnp.sum(y[..., 0])

    return jax.jit(jax.grad(loss))(params)

  leaves = [jax.tree.leaves(slopes(remat)) for remat in ("full", "none")]
  for a, b in zip(*leaves, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
