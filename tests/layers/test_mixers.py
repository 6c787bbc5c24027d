"""One contract for all mixers, and each against its paper's equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MIXERS
from tests.layers import plain

BATCH, LENGTH, WIDTH = 2, 20, 16
# Name of the case: name of the mixer, its options, its plain definition.
CASES = {
  "gla": ("gla", {}, plain.gla),
  "delta_net": ("delta_net", {"heads": 2}, plain.delta_net),
  "delta_net_negative": (
    "delta_net",
    {"negative_eigenvalues": True, "value_width": 6, "key_width": 8},
    plain.delta_net,
  ),
  "gated_deltanet": ("gated_deltanet", {"heads": 2}, plain.delta_net),
  "kda": (
    "kda",
    {"negative_eigenvalues": True, "gate_rank": 3},
    plain.delta_net,
  ),
  "mamba2": (
    "mamba2",
    {"head_width": 8, "state_width": 6, "groups": 2},
    plain.mamba2,
  ),
  "s5": ("s5", {"state_width": 12, "blocks": 2}, plain.s5),
  "softmax_attention": (
    "softmax_attention",
    {"max_length": 50, "kv_heads": 2},
    plain.softmax_attention,
  ),
  "sliding_attention": (
    "sliding_attention",
    {"window": 5, "qk_norm": True},
    plain.softmax_attention,
  ),
}
# Two rows of documents, in a sequence of twice LENGTH tokens.
LENGTHS = ((3, 22, 15), (19, 1, 1, 19))
IDS = np.stack([np.repeat(np.arange(len(row)), row) for row in LENGTHS])

every_case = pytest.mark.parametrize("case", CASES)


def build(case, **fields):
  name, options, _ = CASES[case]
  return MIXERS[name](width=WIDTH, **options, **fields)


@functools.cache
def prepared(case):
  """Layer, parameters of which none is at a special value, and inputs."""
  layer = build(case)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(BATCH, 2 * LENGTH, WIDTH)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x[:, :1])["params"]
  params = jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
  )
  return layer, params, x


@functools.cache
def compiled(case):
  layer = build(case)

  def apply(params, x, state, ids=None):
    return layer.apply({"params": params}, x, state, segment_ids=ids)

  return jax.jit(apply)


def assert_close(got, wanted, tolerance):
  scale = max(np.abs(wanted).max(), 1e-6)
  np.testing.assert_allclose(
    np.asarray(got, wanted.dtype), wanted, rtol=0, atol=tolerance * scale
  )


@functools.cache
def in_two_halves(case):
  """Packed, with the state handed over in the midst of a document."""
  layer, params, x = prepared(case)
  apply = compiled(case)
  first, middle = apply(
    params, x[:, :LENGTH], layer.init_state(BATCH), IDS[:, :LENGTH]
  )
  rest = IDS[:, LENGTH:] - IDS[:, LENGTH - 1 : LENGTH]
  second, final = apply(params, x[:, LENGTH:], middle, rest)
  return np.concatenate([first, second], 1), final


def documents():
  for row, lengths in enumerate(LENGTHS):
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends, strict=True):
      yield row, start, end


@every_case
def test_packed_documents_follow_the_equation_of_the_paper(case):
  layer, params, x = prepared(case)
  y, _ = in_two_halves(case)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for row, start, end in documents():
    document = np.asarray(x[row, start:end], np.float64)
    wanted = CASES[case][2](exact, document, layer)
    assert_close(y[row, start:end], wanted, 2e-5)


@every_case
def test_token_by_token_gives_the_same_outputs_and_state(case):
  layer, params, x = prepared(case)
  apply = compiled(case)
  y, final = in_two_halves(case)
  state, outputs = layer.init_state(BATCH), []
  for t in range(2 * LENGTH):
    fresh = (IDS[:, t] > IDS[:, t - 1] if t else np.zeros(BATCH)).astype(int)
    token, state = apply(params, x[:, t : t + 1], state, fresh[:, None])
    outputs.append(token)
  assert_close(np.concatenate(outputs, 1), y, 2e-5)
  assert jax.tree.structure(state) == jax.tree.structure(final)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
    assert a.dtype == b.dtype
    assert_close(a, np.asarray(b), 2e-5)


@every_case
def test_no_state_is_the_zero_state(case):
  layer, params, x = prepared(case)
  apply = compiled(case)
  y, final = apply(params, x[:, :1], None)
  zero, wanted = apply(params, x[:, :1], layer.init_state(BATCH))
  np.testing.assert_allclose(y, zero, rtol=1e-5, atol=1e-6)
  got = jax.tree.map(lambda a: (a.shape, a.dtype), final)
  assert got == jax.tree.map(lambda a: (a.shape, a.dtype), wanted)
  assert got == jax.tree.map(
    lambda a: (a.shape, a.dtype), layer.init_state(BATCH)
  )


@every_case
def test_gradients_reach_every_parameter_and_no_future_token(case):
  layer, params, x = prepared(case)
  ids = np.repeat([[0, 1]], LENGTH // 2, axis=-1) * np.ones((BATCH, 1), int)
  last = 15

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def slopes(params, x):
    y, _ = layer.apply({"params": params}, x, segment_ids=ids)
    return jnp.sum(jnp.sin(y[:, : last + 1]))

  # The loss is on y up to `last`, of both documents.
  by_params, by_x = slopes(params, x[:, :LENGTH])
  for path, slope in jax.tree_util.tree_leaves_with_path(by_params):
    assert np.isfinite(slope).all(), path
    assert np.abs(slope).max() > 0, path
  assert np.abs(by_x[:, : last + 1]).max(-1).min() > 0
  assert not np.asarray(by_x[:, last + 1 :]).any()


@every_case
def test_one_token_does_not_reach_back_nor_into_the_next_document(case):
  _, params, x = prepared(case)
  apply = compiled(case)
  state = build(case).init_state(BATCH)
  ids = IDS[:, :LENGTH]
  base, _ = apply(params, x[:, :LENGTH], state, ids)
  changed = x[:, :LENGTH].copy()
  changed[:, 1] += 1.0
  other, _ = apply(params, changed, state, ids)
  moved = np.abs(np.asarray(other - base)).max(-1) > 0
  # Row 0: documents of 3 and 22 tokens; row 1: 19, 1, ...
  assert not moved[:, 0].any()
  assert moved[:, 1].all()
  assert moved[0, 2]
  assert not moved[0, 3:].any()
  assert moved[1, 2:5].all()
  assert not moved[1, 19:].any()


@every_case
def test_bfloat16_is_close_to_float32(case):
  _, params, x = prepared(case)
  y, _ = compiled(case)(params, x[:, :LENGTH], None)
  layer = build(case, dtype=jnp.bfloat16)
  low, state = jax.jit(layer.apply)({"params": params}, x[:, :LENGTH])
  assert low.dtype == jnp.bfloat16
  error = np.asarray(low, np.float32) - y
  # Root mean square: single entries may be off by more.
  assert np.sqrt(np.mean(error**2)) < 2e-2 * np.sqrt(np.mean(y**2))
  assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {
    jnp.dtype(name) for name in ("float32", "complex64", "int32", "bool")
  }


@pytest.mark.parametrize(
  ("case", "fields", "match"),
  [
    ("gla", {"heads": 3}, "GLA: heads must divide D / 2 = 8, got 3"),
    ("gated_deltanet", {"heads": 3}, "DeltaNet: heads must divide D = 16"),
    ("kda", {"gate": "value"}, "DeltaNet: gate must be one of"),
    ("mamba2", {"head_width": 5}, "Mamba2: head_width must divide"),
    ("mamba2", {"groups": 3}, "Mamba2: groups must divide the number of"),
    ("s5", {"state_width": 7}, "S5: state_width must be even, got 7"),
    ("s5", {"blocks": 4}, "S5: blocks must divide state_width / 2 = 6"),
    ("softmax_attention", {"kv_heads": 3}, "kv_heads must divide heads = 4"),
    ("softmax_attention", {"head_width": 3}, "K even, got 3"),
  ],
)
def test_bad_fields_are_named(case, fields, match):
  layer = build(case).clone(**fields)
  with pytest.raises(ValueError, match=match):
    layer.init(jax.random.key(0), jnp.zeros((1, 2, WIDTH)))


@every_case
def test_wrong_inputs_are_named(case):
  layer, params, x = prepared(case)
  with pytest.raises(ValueError, match=r"x must be \[B, L, width\]"):
    layer.apply({"params": params}, x[..., :8])
  with pytest.raises(ValueError, match="segment_ids must be"):
    layer.apply({"params": params}, x, segment_ids=IDS[:, 1:])
