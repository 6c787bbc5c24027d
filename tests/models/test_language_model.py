import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import LanguageModel

VOCAB, WIDTH, BATCH, LENGTH = 23, 16, 2, 24
HYBRID = {
  "mixers": ("gated_deltanet", "s5", "sliding_attention"),
  "mixer_options": {
    "gated_deltanet": {"heads": 2},
    "s5": {"state_width": 8},
    "sliding_attention": {"window": 5, "heads": 2},
  },
}
SMALL = {
  "mixers": ("s5", "sliding_attention"),
  "mixer_options": {
    "s5": {"state_width": 8},
    "sliding_attention": {"window": 5, "heads": 2},
  },
}
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(BATCH, LENGTH))
IDS = np.stack([np.repeat([0, 1, 2], [4, 9, 11]), np.repeat([0, 3], [23, 1])])


def build(base=HYBRID, **fields):
  depth = len(base["mixers"])
  return LanguageModel(
    **({"vocab_size": VOCAB, "width": WIDTH, "depth": depth} | base | fields)
  )


@functools.cache
def drawn(base_name, **fields):
  """A model, and random parameters, so that none has a special value."""
  model = build({"hybrid": HYBRID, "small": SMALL}[base_name], **fields)
  params = jax.jit(model.init)(jax.random.key(0), TOKENS[:, :1])
  rng = np.random.default_rng(1)
  noisy = jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
  )
  return model, noisy


def assert_close(got, wanted, tolerance=2e-5):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == bool:
      np.testing.assert_array_equal(a, b)
      continue
    scale = max(np.abs(b).max(), 1e-3)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def stacked(params, pattern):
  """Stacks the parameters of the unrolled model, as in the scanned model."""
  backbone = dict(params["params"]["backbone"])
  layers = [
    backbone.pop(f"layer_{i}")
    for i in range(sum(name.startswith("layer_") for name in backbone))
  ]
  backbone["repeats"] = {
    f"block_{j}": jax.tree.map(
      lambda *leaves: np.stack(leaves), *layers[j::pattern]
    )
    for j in range(pattern)
  }
  return {"params": params["params"] | {"backbone": backbone}}


def test_predictions_start_near_uniform():
  model = build(SMALL)
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)
  logits, _ = jax.jit(model.apply)(params, TOKENS)
  assert logits.dtype == jnp.float32
  chances = jax.nn.softmax(logits)
  assert np.abs(chances * VOCAB - 1).max() < 0.5
  assert np.asarray(logits).std() > 1e-3


def test_packed_cut_and_token_by_token_runs_give_the_same_logits():
  model, params = drawn("hybrid")
  apply = jax.jit(
    lambda tokens, state, ids: model.apply(
      params, tokens, state, segment_ids=ids
    )
  )
  whole, final = apply(TOKENS, model.init_state(BATCH), IDS)
  zero = jax.tree.map(np.asarray, model.init_state(BATCH))
  state, logits = zero, []
  for t in range(LENGTH):
    state = jax.tree.map(np.asarray, state)
    if t in (4, 13):
      # A new document in the first row: the model starts from the zero state.
      state = jax.tree.map(
        lambda old, new: np.concatenate([new[:1], old[1:]]),
        state,
        zero,
      )
    if t == 23:
      state = jax.tree.map(
        lambda old, new: np.concatenate([old[:1], new[1:]]),
        state,
        zero,
      )
    out, state = apply(TOKENS[:, t : t + 1], state, np.zeros((BATCH, 1), int))
    logits.append(out)
  assert_close(np.concatenate(logits, 1), np.asarray(whole))
  assert_close(state, final)


def test_scan_over_layers_equals_the_unrolled_stack():
  model, params = drawn("small", depth=4)
  logits, states = jax.jit(model.apply)(params, TOKENS, segment_ids=IDS)
  scanned = model.clone(scan_layers=True)
  shape = jax.eval_shape(scanned.init, jax.random.key(0), TOKENS)
  packed = stacked(params, 2)
  assert jax.tree.map(np.shape, packed) == jax.tree.map(
    lambda leaf: leaf.shape, shape
  )
  got, after = jax.jit(scanned.apply)(
    packed, TOKENS, scanned.init_state(BATCH), segment_ids=IDS
  )
  assert_close(got, logits)
  for j in range(2):
    assert_close(
      after[j],
      jax.tree.map(lambda *leaves: np.stack(leaves), *states[j::2]),
    )
  # A call continues from the stacked state as from the tuple.
  again, _ = jax.jit(scanned.apply)(packed, TOKENS, after)
  wanted, _ = jax.jit(model.apply)(params, TOKENS, states)
  assert_close(again, wanted)


@pytest.mark.parametrize(
  ("remat", "scan_layers"),
  [
    pytest.param("full", False, marks=pytest.mark.slow),
    pytest.param("dots", True, marks=pytest.mark.slow),
  ],
)
def test_rematerialisation_changes_no_gradient(remat, scan_layers):
  model, params = drawn("small", scan_layers=scan_layers)

  def slopes(remat):
    def loss(params):
      logits, _ = model.clone(remat=remat).apply(params, TOKENS)
      return jnp.mean(jnp.square(logits))

    return jax.jit(jax.grad(loss))(params)

  assert_close(slopes(remat), slopes("none"))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialisation_stores_less_for_the_backward_pass(scan_layers):
  def kept(remat):
    model = build(SMALL, depth=4, scan_layers=scan_layers, remat=remat)
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)

    def backward(params):
      return jax.vjp(lambda p: model.apply(p, TOKENS)[0], params)[1]

    # The backward function is a pytree of the arrays that it stores.
    leaves = jax.tree.leaves(jax.eval_shape(backward, params))
    return sum(leaf.size for leaf in leaves)

  assert kept("full") < 0.5 * kept("none")
  assert kept("full") < kept("dots") < kept("none")


def test_tied_embeddings_share_one_table():
  sizes = {}
  for tied in (True, False):
    model = build(SMALL, tie_embeddings=tied)
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS[:, :1])
    sizes[tied] = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert sizes[False] - sizes[True] == VOCAB * WIDTH

  model, params = drawn("small")
  table = params["params"]["embedding"]["table"]
  unused = int(np.setdiff1d(np.arange(VOCAB), TOKENS[:, :2])[0])

  def logit(table):
    own = params["params"] | {"embedding": {"table": table}}
    logits, _ = model.apply({"params": own}, TOKENS[:, :2])
    return logits[0, -1, unused]

  slope = np.abs(jax.jit(jax.grad(logit))(table)).max(-1)
  # The rows of the logit in the loss and of the input tokens.
  assert slope[unused] > 0
  assert (slope[TOKENS[0, :2]] > 0).all()
  others = np.setdiff1d(np.arange(VOCAB), [unused, *TOKENS[0, :2]])
  assert not slope[others].any()


def test_initial_writes_to_the_stream_are_smaller_in_deeper_models():
  def deviation(depth):
    model = build({"mixers": ("sliding_attention",)}, depth=depth, width=64)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS[:, :1])
    layer = params["params"]["backbone"]["layer_0"]
    return [
      float(np.std(layer[part]["output"]["kernel"]) * rows**0.5)
      for part, rows in (("mixer", 64), ("mlp", 176))
    ]

  np.testing.assert_allclose(deviation(1), [2**-0.5] * 2, rtol=0.05)
  np.testing.assert_allclose(deviation(4), [8**-0.5] * 2, rtol=0.05)


def test_bfloat16_is_close_to_float32():
  model, params = drawn("small")
  wanted, _ = jax.jit(model.apply)(params, TOKENS)
  low = model.clone(dtype=jnp.bfloat16)
  logits, state = jax.jit(low.apply)(params, TOKENS)
  assert logits.dtype == jnp.float32
  error = np.sqrt(np.mean(np.square(logits - wanted)))
  assert error < 2e-2 * np.sqrt(np.mean(np.square(wanted)))
  assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(
    lambda leaf: leaf.dtype, low.init_state(BATCH)
  )


@pytest.mark.slow
def test_a_model_runs_under_shard_map_and_on_an_auto_mesh():
  """`shard_map` checks the types of carries on a mesh of any size."""
  model, params = drawn("hybrid", scan_layers=True)
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec
  wanted = jax.jit(model.apply)(params, TOKENS)
  sharded = jax.shard_map(
    model.apply,
    mesh=mesh,
    in_specs=(spec(), spec("data")),
    # The first axis of the stacked states is that of the layers.
    out_specs=(spec("data"), spec(None, "data")),
  )
  assert_close(jax.jit(sharded)(params, TOKENS), wanted)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"mixers": ("gated_delta_net",)}, "mixer .*mean 'gated_deltanet'"),
    ({"mixers": ()}, "mixers must not be empty"),
    ({"mlp": "gated_mpl"}, "unknown mlp 'gated_mpl'.*mean 'gated_mlp'"),
    ({"mlp_options": {"hiden": 3}}, "mlp 'gated_mlp'.*mean 'hidden'"),
    (
      {"mlp": "none", "mlp_options": {"hidden": 3}},
      "mlp 'none' has no options, got hidden",
    ),
    (
      {"mixer_options": {"s5": {"state_with": 3}}},
      "mixer 's5': unknown field 'state_with'; did you mean 'state_width'",
    ),
    ({"mixer_options": {"s55": {}}}, "unknown mixer 's55'.*mean 's5'"),
    ({"mixer_options": {"s5": {"width": 3}}}, "set by the model itself"),
    ({"remat": "ful"}, "unknown remat 'ful'; did you mean 'full'"),
    ({"depth": 0}, "depth must be at least 1, got 0"),
    (
      {"depth": 3, "scan_layers": True},
      "depth must be a multiple of len.mixers. = 2, got 3",
    ),
  ],
)
def test_the_error_names_a_typo_and_near_matches(fields, match):
  model = build(SMALL, **fields)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), TOKENS)


def test_a_stack_without_channel_mixers_has_no_mlp_parameters():
  model = build(SMALL, mlp="none")
  params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  layer = params["params"]["backbone"]["layer_0"]
  assert set(layer) == {"mixer", "mixer_norm"}


def test_factors_and_the_bound_of_embeddings_and_logits():
  model, params = drawn("small")
  x = np.asarray(
    model.apply(params, TOKENS, method=lambda m, t: m.embedding(t))
  )
  rng = np.random.default_rng(0)
  features = rng.normal(size=x.shape).astype(np.float32)
  logits = np.asarray(model.apply(params, features, method="logits"), float)
  other = model.clone(embedding_scale=6.9375, logits_scale=8.0, logits_cap=2.0)
  y = other.apply(params, TOKENS, method=lambda m, t: m.embedding(t))
  np.testing.assert_allclose(y, 6.9375 * x, rtol=1e-6)
  got = other.apply(params, features, method="logits")
  wanted = 2 * np.tanh(8 * logits / 2)
  assert np.abs(wanted).max() > 1.5
  np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
