"""One contract for all mixers, and each against its paper's equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import mixers
from jaxmodels.testing import FORMS, check_mixer
from jaxmodels.testing.examples import MIXERS
from tests.mixers import (
  ALL,
  EACH_OP,
  EACH_STATE,
  REPRESENTATIVE,
  slow_in_matrix,
)

BATCH, LENGTH, WIDTH = 2, 20, 16
# Two rows of documents, in a sequence of twice LENGTH tokens.
LENGTHS = ((3, 22, 15), (19, 1, 1, 19))
IDS = np.stack([np.repeat(np.arange(len(row)), row) for row in LENGTHS])

every_case = pytest.mark.parametrize("case", MIXERS)


def build(case, **fields):
  record = MIXERS[case]
  return mixers.MIXERS[record.mixer](width=WIDTH, **record.options, **fields)


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
  """Packed, with the state handed over in the midst of a document.

  A mixer that reads later tokens has all of them at once.
  """
  layer, params, x = prepared(case)
  apply = compiled(case)
  if not MIXERS[case].causal:
    return apply(params, x, None, IDS)
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


def test_every_mixer_has_a_record():
  assert {record.mixer for record in MIXERS.values()} == set(mixers.MIXERS)
  listed = [record.mixer for record in MIXERS.values() if record.listed]
  assert sorted(listed) == sorted(mixers.MIXERS)


@pytest.mark.parametrize(
  "case",
  [
    # Records that are not listed are other options of one that is.
    pytest.param(case, marks=() if record.listed else pytest.mark.slow)
    for case, record in MIXERS.items()
  ],
)
def test_packed_documents_follow_the_equation_of_the_paper(case):
  layer, params, x = prepared(case)
  y, _ = in_two_halves(case)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for row, start, end in documents():
    document = np.asarray(x[row, start:end], np.float64)
    wanted = MIXERS[case].plain(exact, document, layer)
    assert_close(y[row, start:end], wanted, 2e-5)


@pytest.mark.parametrize(
  "case",
  [
    "delta_net",
    pytest.param("gated_deltanet", marks=pytest.mark.slow),
    pytest.param("kda", marks=pytest.mark.slow),
  ],
)
def test_a_faint_memory_is_read_as_in_the_published_layer(case):
  """What is read is as small as the norm's epsilon: its scale counts."""
  layer, params, x = prepared(case)
  value = jax.tree.map(lambda p: 3e-3 * p, params["value"])
  params = {**params, "value": value}
  x = x[:, :LENGTH]
  ids = np.zeros((BATCH, LENGTH), IDS.dtype)
  y, _ = compiled(case)(params, x, layer.init_state(BATCH), ids)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  wanted = MIXERS[case].plain(exact, np.asarray(x[0], np.float64), layer)
  assert_close(y[0], wanted, 2e-5)


@pytest.mark.parametrize(
  "case",
  [
    # Other options of a mixer keep its contract as it does.
    pytest.param(case, marks=pytest.mark.slow if record.listed else ALL)
    if case not in EACH_STATE
    else case
    for case, record in MIXERS.items()
  ],
)
def test_the_contract_of_mixers(case):
  """With the gradients of its own method; two methods of a few mixers."""
  params = prepared(case)[1]
  methods = ("recurrent", "chunked") if case in REPRESENTATIVE else ()
  check_mixer(
    build(case),
    params=params,
    methods=methods,
    causal=MIXERS[case].causal,
    verbose=False,
  )


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(case, marks=pytest.mark.slow if case in EACH_OP else ALL)
    for case in MIXERS
  ],
)
def test_every_method(case):
  """What does not depend on the method, as bfloat16, is in the test above."""
  params = prepared(case)[1]
  check_mixer(
    build(case),
    params=params,
    methods=FORMS,
    causal=MIXERS[case].causal,
    bfloat16=False,
    verbose=False,
  )


@pytest.mark.parametrize(
  ("case", "fields", "match"),
  [
    ("gla", {"heads": 3}, "GLA: heads must divide D / 2 = 8, got 3"),
    ("gated_deltanet", {"heads": 3}, "GatedDeltaNet: heads must divide D = 16"),
    ("kda", {"decay": "value"}, "KDA: decay must be one of"),
    ("mamba2", {"head_width": 5}, "Mamba2: head_width must divide"),
    ("mamba2", {"groups": 3}, "Mamba2: groups must divide the number of"),
    ("linoss", {"scheme": "ex"}, "scheme must be im or imex, got 'ex'"),
    ("s4", {"basis": "lin"}, "S4: basis must be one of legs, legt, fout, got"),
    ("s4d", {"state_width": 7}, "S4D: state_width must be even, got 7"),
    ("lru", {"radius_min": 1.0}, "LRU: the radii must be .* got 1.0 and 0.99"),
    ("rg_lru", {"heads": 5}, "RGLRU: heads must divide lru_width"),
    ("retnet", {"heads": 3}, "RetNet: heads must divide D = 16, got 3"),
    ("retnet", {"key_width": 3}, "RetNet: key_width, .* must be even, got 3"),
    ("s5", {"state_width": 7}, "S5: state_width must be even, got 7"),
    ("s5", {"blocks": 4}, "S5: blocks must divide state_width / 2 = 6"),
    ("softmax_attention", {"kv_heads": 3}, "kv_heads must divide heads = 4"),
    ("softmax_attention", {"head_width": 3}, "K even, got 3"),
    ("softmax_attention", {"qk_norm": "all"}, "qk_norm must be .* got 'all'"),
    ("softmax_attention", {"gate": "silu"}, "gate must be .* got 'silu'"),
  ],
)
def test_bad_fields_are_named(case, fields, match):
  layer = build(case).clone(**fields)
  with pytest.raises(ValueError, match=match):
    layer.init(jax.random.key(0), jnp.zeros((1, 2, WIDTH)))


def test_retnet_has_the_parameters_of_its_paper():
  """8 D^2 of retention at D of 2048, its 1.3B model, and 4 D of the norm."""
  layer = mixers.RetNet(width=2048, heads=8)
  x = jax.ShapeDtypeStruct((1, 1, 2048), np.float32)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 8 * 2048**2 + 2 * 4096
  assert layer.init_state(1).state.shape == (1, 8, 256, 512)


@pytest.mark.parametrize("case", slow_in_matrix(MIXERS))
def test_wrong_inputs_are_named(case):
  layer, params, x = prepared(case)
  with pytest.raises(ValueError, match=r"x must be \[B, L, width\]"):
    layer.apply({"params": params}, x[..., :8])
  with pytest.raises(ValueError, match="segment_ids must be"):
    layer.apply({"params": params}, x, segment_ids=IDS[:, 1:])
