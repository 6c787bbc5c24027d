"""Mixers get their layer index and depth, and share values between layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import HGRN2, RWKV7, Bidirectional, Mixer
from jaxmodels.mixers.contract import ContractError
from jaxmodels.models import Backbone, GatedAttention, TokenChannel
from tests.models.stacks import (
  BATCH,
  IDS,
  LENGTH,
  WIDTH,
  Bounded,
  ByLayer,
  Fields,
  FirstValue,
  TokenShift,
  leaky,
  restacked,
)


class BoundedMixer(Mixer):
  """Like `Bounded`, as a `Mixer` whose `mix` has the keywords."""

  init_shared = Bounded.init_shared

  def mix(self, x, state, segment_ids, *, layer=0, shared=None):
    zero = jnp.zeros((x.shape[0], self.width))
    bound = jnp.ones(self.width) if shared is None else shared["bounds"][layer]
    state = zero if state is None else state
    return *leaky(x, bound[None], state, segment_ids), shared


DEPTH = 6
PATTERN = (FirstValue(), Bounded(), ByLayer())
X = np.random.default_rng(0).normal(size=(BATCH, LENGTH, WIDTH))
X = X.astype(np.float32)


def build(**fields):
  fields = {"mlp": TokenShift(), **fields}
  return Backbone(WIDTH, DEPTH, PATTERN, **fields)


@pytest.fixture(scope="module")
def params():
  return jax.jit(build().init)(jax.random.key(0), X)["params"]


def close(got, wanted, tolerance=2e-5):
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
  for a, b in leaves:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def defined(params, x, ids):
  """The stack for one row, as loops over layers and tokens, in float64."""

  def normed(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * scale

  def leaky(x, decay):
    h, y = np.zeros(WIDTH), []
    for t, token in enumerate(x):
      starts = ids[t] != (ids[t - 1] if t else 0)
      h = (0 if starts else decay * h) + token
      y.append(h)
    return np.stack(y)

  logits = params["shared_bounds"]
  shares = np.exp(logits) / np.exp(logits).sum(0)
  first = None
  for i in range(DEPTH):
    layer = params[f"layer_{i}"]
    u = normed(x, layer["mixer_norm"]["scale"])
    if i % 3 == 0:
      v = u @ layer["mixer"]["value"]["kernel"]
      first = v if first is None else first
      y = leaky(v + first, 0.5)
    elif i % 3 == 1:
      y = leaky(u, shares[: i + 1].sum(0))
    else:
      y = leaky(u, (i + 1) / (DEPTH + 1))
    x = x + y
    u = normed(x, layer["mlp_norm"]["scale"])
    before = np.concatenate([np.zeros((1, WIDTH)), u[:-1]])
    before[[t for t in range(1, LENGTH) if ids[t] != ids[t - 1]]] = 0
    x = x + (u - before) @ layer["mlp"]["Dense_0"]["kernel"]
  return normed(x, params["norm"]["scale"])


def test_a_stack_equals_its_equations(params):
  y, _ = jax.jit(build().apply)({"params": params}, X, segment_ids=IDS)
  wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for row in range(BATCH):
    close(y[row], defined(wide, X[row].astype(np.float64), IDS[row]))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_base_class_passes_the_keywords_of_mix(scan_layers):
  def results(mixer):
    model = Backbone(WIDTH, 2, (mixer,), scan_layers=scan_layers)
    params = jax.jit(model.init)(jax.random.key(0), X)
    return jax.jit(model.apply)(params, X, segment_ids=IDS)

  got, wanted = results(BoundedMixer(WIDTH)), results(Bounded())
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_such_a_mixer_also_works_outside_of_a_stack():
  y, state, shared = jax.jit(BoundedMixer(WIDTH).apply)({}, X)
  np.testing.assert_allclose(y, np.cumsum(X, 1), rtol=1e-5)
  assert state.shape == BoundedMixer(WIDTH).init_state(BATCH).shape
  assert shared is None


@pytest.mark.parametrize(
  "remat", [pytest.param("none", marks=pytest.mark.slow), "full"]
)
def test_scanned_layers_equal_unrolled_layers(params, remat):
  def results(model, params):
    def loss(params, x):
      y, state = model.apply({"params": params}, x, segment_ids=IDS)
      return jnp.sum(jnp.sin(y)), (y, state)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, X)

  (slopes, dx), (y, states) = results(build(), params)
  scanned = build(scan_layers=True, remat=remat)
  packed = restacked(params, 3)
  shapes = jax.eval_shape(scanned.init, jax.random.key(0), X)["params"]
  assert jax.tree.map(jnp.shape, packed) == jax.tree.map(jnp.shape, shapes)
  (got, got_dx), (got_y, after) = results(scanned, packed)
  close((got_y, got_dx), (y, dx))
  close(got, restacked(slopes, 3))
  for j in range(3):
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states[j::3])
    close(after[j], stacked)
  unrolled = build(remat=remat)
  close(results(unrolled, params), ((slopes, dx), (y, states)))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_token_by_token_and_packed_runs_equal_the_whole_run(
  params, scan_layers
):
  model = build(scan_layers=scan_layers)
  params = restacked(params, 3) if scan_layers else params
  apply = jax.jit(
    lambda x, state, ids: model.apply(
      {"params": params}, x, state, segment_ids=ids
    )
  )
  whole, final = apply(X, model.init_state(BATCH), None)
  state, tokens = model.init_state(BATCH), []
  for t in range(LENGTH):
    y, state = apply(X[:, t : t + 1], state, None)
    tokens.append(y)
  close((np.concatenate(tokens, 1), state), (np.asarray(whole), final))
  packed, _ = apply(X, None, IDS)
  alone, _ = apply(X[:, 2:], None, None)
  close(packed[0, 2:], alone[0])
  assert jax.tree.map(jnp.shape, state) == jax.tree.map(
    jnp.shape, model.init_state(BATCH)
  )


def test_the_layer_index_is_an_int_in_an_unrolled_stack():
  seen = []

  class Watches(Fields):
    def __call__(self, x, state=None, *, segment_ids=None, layer, depth):
      seen.append((type(layer), depth))
      return x, self.zero(x, state)

  for scan_layers in (False, True):
    model = Backbone(WIDTH, 2, (Watches(),), mlp="none", remat="full")
    model = model.clone(scan_layers=scan_layers)
    jax.eval_shape(model.init, jax.random.key(0), X)
    kinds, depths = zip(*seen, strict=True)
    assert set(depths) == {2}
    assert all((kind is int) != scan_layers for kind in kinds)
    seen.clear()


class Pair(FirstValue):
  def __call__(self, x, state=None, *, segment_ids=None, shared):
    return x, self.zero(x, state)


class Adds(FirstValue):
  def __call__(self, x, state=None, *, segment_ids=None, shared):
    return x, self.zero(x, state), {**shared, "more": x}


class Narrows(FirstValue):
  def __call__(self, x, state=None, *, segment_ids=None, shared):
    return x, self.zero(x, state), {**shared, "first": x[:, 0]}


class Misspells(FirstValue):
  def __call__(self, x, state=None, *, segment_ids=None, shared):
    return x + shared["frist"], self.zero(x, state), shared


class Other(FirstValue):
  def init_shared(self, x, depth, param):
    return {**super().init_shared(x, depth, param), "first": x[:, 0]}


class NoNames(FirstValue):
  def init_shared(self, x, depth, param):
    return x


MISUSES = {
  Pair: r"Pair must return \(y, state, shared\), got a tuple of 2: a mixer th",
  Adds: r"Adds must return the shared values \['first', 'written'\], got \['f",
  Narrows: r"Narrows returns .* 'first' as float32\[2, 4\], but was given flo",
  Misspells: r"no shared value 'frist'; did you mean 'first'\?: a mixer that",
  Other: r"Other.init_shared makes 'first' as float32\[2, 4\], but another la",
  NoNames: r"NoNames.init_shared must return arrays by name, got float32\[2",
}


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("mixer", MISUSES)
def test_misuse_of_shared_values_raises_an_error_of_one_line(
  mixer, scan_layers
):
  model = Backbone(WIDTH, 2, (FirstValue(), mixer()), scan_layers=scan_layers)
  with pytest.raises(ContractError, match=MISUSES[mixer]) as error:
    jax.eval_shape(model.init, jax.random.key(0), X)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
def test_shared_values_work_with_a_batch_sharded_over_devices(
  params, scan_layers, explicit
):
  # These small channel mixers combine sharded arrays with unsharded ones.
  mlp = "none" if explicit else TokenShift()
  model = build(scan_layers=scan_layers, mlp=mlp)
  params = restacked(params, 3) if scan_layers else params
  wanted = jax.jit(model.apply)({"params": params}, X)
  kind = jax.sharding.AxisType.Explicit if explicit else None
  kind = kind or jax.sharding.AxisType.Auto
  mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
  spec = jax.sharding.PartitionSpec
  if explicit:
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec("data")))
    with jax.set_mesh(mesh):
      got = jax.jit(model.apply)({"params": params}, x)
  else:
    states = spec(None, "data") if scan_layers else spec("data")
    sharded = jax.shard_map(
      model.apply,
      mesh=mesh,
      in_specs=(spec(), spec("data")),
      out_specs=(spec("data"), states),
    )
    got = jax.jit(sharded)({"params": params}, X)
  close(jax.tree.map(np.asarray, got), wanted)


@pytest.mark.parametrize(
  "around", [Bidirectional, TokenChannel, GatedAttention]
)
@pytest.mark.parametrize(
  ("inner", "name"),
  [
    (HGRN2(8, heads=2), "['shared_lower_bounds']"),
    # Only later layers mix the values of the first one into theirs.
    (RWKV7(8, head_width=4), "['value_bias']"),
  ],
  ids=["hgrn2", "rwkv7"],
)
def test_a_mixer_inside_another_shares_its_values(around, inner, name):
  model = Backbone(8, 2, (around(8, mixer=inner),), mlp="none")
  x = jax.ShapeDtypeStruct((2, 5, 8), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  found = [jax.tree_util.keystr(path) for path, _ in leaves]
  assert any(name in path for path in found), found
