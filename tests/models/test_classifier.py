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
# A mixer of both directions and a causal one.
STACK = {"width": WIDTH, "depth": 2, "mixers": ("lion", "s5")}
OPTIONS = {"lion": {"heads": 2}, "s5": {"state_width": 4}}
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(VOCAB, size=(BATCH, LENGTH)).astype(np.int32)
# Padding at the front, at both ends with a gap, and none.
MASK = np.array(
  [[0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0, 0], [1] * LENGTH], bool
)
IDS = np.stack([np.repeat([0, 1], cut) for cut in ([5, 3], [2, 6], [8, 0])])
IDS = IDS.astype(np.int32)


def build(**fields):
  fields = {"classes": CLASSES, "vocab_size": VOCAB, **STACK, **fields}
  return Classifier(mixer_options=OPTIONS, **fields)


@functools.cache
def drawn(pooling):
  """A compiled call, and random parameters: none has a special value."""
  model = build(pooling=pooling)
  variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
  rng = np.random.default_rng(1)
  noisy = jax.tree.map(
    lambda p: p + 0.3 * rng.normal(size=p.shape).astype(p.dtype), variables
  )

  @jax.jit
  def call(tokens, mask=None):
    return model.apply(noisy, tokens, mask=mask)[0]

  return model, noisy, call


def pooled(outputs, pooling, query):
  """The pooling of the positions of one segment [n, D], in float64."""
  outputs = np.asarray(outputs, np.float64)
  if pooling == "last":
    return outputs[-1]
  if pooling == "mean":
    return outputs.mean(0)
  weights = np.exp(outputs @ query / np.sqrt(WIDTH))
  return weights @ outputs / weights.sum()


def by_hand(variables, rows, counts, pooling):
  """Logits of rows: the stack alone on each row, then pooling and head."""
  own = dict(variables["params"])
  table, head = own.pop("embedding")["table"], own.pop("head")
  query = np.asarray(own.pop("query", np.zeros(WIDTH)), np.float64)
  stack = Backbone(mixer_options=OPTIONS, **STACK)
  found = []
  for row, count in zip(rows, counts, strict=True):
    y, _ = stack.apply({"params": own}, np.asarray(table)[row][None])
    vector = pooled(np.asarray(y[0])[count], pooling, query)
    found.append(vector @ np.asarray(head["kernel"]) + head["bias"])
  return np.array(found)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_positions_that_count_decide(pooling):
  _, variables, call = drawn(pooling)
  logits = call(TOKENS, MASK)
  spans = [slice(3, 8), slice(1, 6), slice(0, 8)]
  rows = [TOKENS[b, span] for b, span in enumerate(spans)]
  counts = [MASK[b, span] for b, span in enumerate(spans)]
  expected = by_hand(variables, rows, counts, pooling)
  np.testing.assert_allclose(logits, expected, atol=3e-5)
  # Other tokens in the padding change nothing, and others in the row do.
  ends = ~MASK
  ends[1, 3] = False
  other = (TOKENS + 1) % VOCAB
  changed = call(np.where(ends, other, TOKENS), MASK)
  np.testing.assert_array_equal(logits, changed)
  assert np.abs(logits - call(other, MASK)).max() > 1e-2


def test_training_starts_from_the_mean_near_uniform_classes():
  logits = [
    jax.jit(build(pooling=pooling).init_with_output)(
      jax.random.key(0), TOKENS, mask=MASK
    )[0][0]
    for pooling in ("mean", "attention")
  ]
  np.testing.assert_allclose(*logits, atol=1e-6)
  assert np.abs(logits[0]).max() < 0.3


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_segment_has_the_logits_of_that_segment_alone(pooling):
  _, variables, _ = drawn(pooling)
  model = build(pooling=pooling, segments=2)
  mask = np.ones_like(MASK)
  mask[0, 6:] = False
  logits, _ = jax.jit(model.apply)(
    variables, TOKENS, segment_ids=IDS, mask=mask
  )
  assert logits.shape == (BATCH, 2, CLASSES)
  kept = [(IDS[b] == s) & mask[b] for b in range(BATCH) for s in (0, 1)]
  rows = [TOKENS[i // 2][keep] for i, keep in enumerate(kept) if keep.any()]
  counts = [np.ones(len(row), bool) for row in rows]
  expected = by_hand(variables, rows, counts, pooling)
  np.testing.assert_allclose(
    logits.reshape(-1, CLASSES)[:5], expected, atol=3e-5
  )
  # The third row has no second segment.
  bias = variables["params"]["head"]["bias"]
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
