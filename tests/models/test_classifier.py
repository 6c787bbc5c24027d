"""Classes of whole sequences, pooled from the positions that count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.models import Backbone, Classifier, count_parameters
from jaxmodels.models.classifier import POOLINGS

BATCH, LENGTH, VOCAB, CLASSES, WIDTH = 3, 8, 7, 4, 8
# A mixer that reads in both directions, so that padding could leak.
STACK = {
  "width": WIDTH,
  "depth": 1,
  "mixers": (("lion", {"heads": 2}),),
  "mlp": "none",
}
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(VOCAB, size=(BATCH, LENGTH)).astype(np.int32)
# Padding at the front, at both ends with a gap between, and at the end.
MASK = np.array(
  [[0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0, 0], [1] * 5 + [0] * 3], bool
)
SPANS = slice(3, 8), slice(1, 6), slice(0, 5)
# The second half of the last row belongs to no segment.
IDS = np.repeat([[0, 1], [0, 1], [0, 5]], LENGTH // 2, axis=1).astype(np.int32)


def build(**fields):
  fields = {"classes": CLASSES, "vocab_size": VOCAB, **STACK, **fields}
  return Classifier(**fields)


@functools.cache
def drawn():
  """Random parameters, so that none has a special value."""
  variables = jax.jit(build(pooling="attention").init)(
    jax.random.key(0), TOKENS
  )
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda p: p + 0.3 * rng.normal(size=p.shape).astype(p.dtype), variables
  )


@functools.cache
def call(pooling, segments=None):
  """The compiled model; a pooling without a query ignores it."""
  model, variables = build(pooling=pooling, segments=segments), drawn()
  return jax.jit(
    lambda tokens, ids, mask: model.apply(
      variables, tokens, segment_ids=ids, mask=mask
    )[0]
  )


@functools.cache
def alone(length):
  """The compiled stack on rows of a length, each with no other around it."""
  own = dict(drawn()["params"])
  table = own.pop("embedding")["table"]
  stack = Backbone(**STACK)
  return jax.jit(
    lambda rows: stack.apply(
      {"params": {k: own[k] for k in ("layer_0", "norm")}}, table[rows]
    )[0]
  )


def by_hand(rows, counts, pooling):
  """Logits of rows: the stack alone, then pooling and head in float64."""
  outputs = np.asarray(alone(rows.shape[1])(rows), np.float64)
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), drawn()["params"])
  vectors = []
  for y, count in zip(outputs, counts, strict=True):
    y = y[count]
    scores = np.exp(y @ params["query"] / np.sqrt(WIDTH))
    vectors.append(
      {
        "last": y[-1],
        "mean": y.mean(0),
        "attention": scores @ y / scores.sum(),
      }[pooling]
    )
  head = params["head"]
  return np.array(vectors) @ head["kernel"] + head["bias"][None]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_positions_that_count_decide(pooling):
  logits = call(pooling)(TOKENS, None, MASK)
  rows = np.stack([TOKENS[b, span] for b, span in enumerate(SPANS)])
  counts = np.stack([MASK[b, span] for b, span in enumerate(SPANS)])
  expected = by_hand(rows, counts, pooling)
  np.testing.assert_allclose(logits, expected, atol=3e-5)
  # Other tokens in the padding change nothing, and others in the row do.
  padding = ~MASK
  padding[1, 3] = False
  other = (TOKENS + 1) % VOCAB
  changed = call(pooling)(np.where(padding, other, TOKENS), None, MASK)
  np.testing.assert_array_equal(logits, changed)
  read = call(pooling)(np.where(padding, TOKENS, other), None, MASK)
  assert np.abs(logits - read).min(1).max() > 1e-2


def test_training_starts_from_the_mean_near_uniform_classes():
  variables = jax.tree.map(np.asarray, drawn())
  params = dict(variables["params"], query=np.zeros(WIDTH, np.float32))
  found = [
    jax.jit(build(pooling=pooling).apply)({"params": params}, TOKENS)[0]
    for pooling in ("mean", "attention")
  ]
  np.testing.assert_allclose(*found, atol=1e-5)
  init = jax.jit(build(pooling="attention").init_with_output)
  (logits, _), first = init(jax.random.key(0), TOKENS)
  assert not np.any(first["params"]["query"])
  assert np.abs(logits).max() < 0.3


@pytest.mark.parametrize(
  "pooling",
  [
    "attention",
    *(pytest.param(x, marks=pytest.mark.slow) for x in ("last", "mean")),
  ],
)
def test_each_segment_has_the_logits_of_that_segment_alone(pooling):
  mask = np.ones_like(MASK)
  logits = call(pooling, 2)(TOKENS, IDS, mask)
  assert logits.shape == (BATCH, 2, CLASSES)
  rows = TOKENS.reshape(6, 4)[:5]
  expected = by_hand(rows, mask.reshape(6, 4)[:5], pooling)
  np.testing.assert_allclose(
    logits.reshape(6, CLASSES)[:5], expected, atol=3e-5
  )
  bias = drawn()["params"]["head"]["bias"]
  np.testing.assert_allclose(logits[2, 1], bias, atol=1e-6)


def test_vectors_and_states_of_a_causal_stack():
  model = Classifier(
    classes=CLASSES,
    input_width=3,
    width=WIDTH,
    depth=1,
    mixers=(("gla", {"heads": 2}),),
    dtype=jnp.bfloat16,
  )
  x = RNG.normal(size=(BATCH, LENGTH, 3)).astype(np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  assert count_parameters(model) == sum(
    leaf.size for leaf in jax.tree.leaves(variables)
  )
  apply = jax.jit(model.apply)
  whole, final = apply(variables, x)
  assert whole.dtype == jnp.float32
  _, state = apply(variables, x[:, :4], model.init_state(BATCH))
  logits, state = apply(variables, x[:, 4:], state)
  np.testing.assert_allclose(logits, whole, atol=1e-3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), state, final
  )


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_sharded_sequences_have_the_logits_of_whole_ones(pooling):
  model = build(pooling=pooling, mixers=(("gla", {"heads": 2}),), segments=2)
  variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
  given = variables, TOKENS, IDS, MASK

  def call(model):
    return lambda variables, tokens, ids, mask: model.apply(
      variables, tokens, segment_ids=ids, mask=mask
    )[0]

  along, whole = PartitionSpec(None, "s"), PartitionSpec()
  sharded = jax.shard_map(
    call(model.clone(axis_name="s")),
    mesh=jax.make_mesh((2,), ("s",), axis_types=(AxisType.Auto,)),
    in_specs=(whole, along, along, along),
    out_specs=whole,
  )
  np.testing.assert_allclose(
    jax.jit(sharded)(*given), jax.jit(call(model))(*given), atol=2e-5
  )


@pytest.mark.parametrize(
  ("fields", "x", "match"),
  [
    ({"input_width": 3}, TOKENS, "give vocab_size for tokens or input_width"),
    ({"classes": 0}, TOKENS, "Classifier: classes must be at least 1"),
    ({"pooling": "max"}, TOKENS, "unknown pooling 'max'"),
    ({}, TOKENS[..., None], r"TokenEmbedding: tokens"),
    (
      {"vocab_size": None, "input_width": 3},
      TOKENS,
      r"Classifier: x .*input_width",
    ),
  ],
)
def test_the_error_names_what_is_wrong(fields, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(build(**fields).init, jax.random.key(0), x)


def test_a_mask_of_another_shape_is_named():
  with pytest.raises(ValueError, match="Classifier: mask"):
    jax.eval_shape(
      lambda: build().init(jax.random.key(0), TOKENS, mask=MASK[:, :3])
    )
