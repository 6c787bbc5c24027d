"""Generation against teacher forcing, a batch against each row alone."""

import functools

import jax
import numpy as np
import pytest

from jaxmodels.models import LanguageModel
from jaxmodels.models.decode import Decoder
from jaxmodels.models.decode.stream import collect
from jaxmodels.testing.examples import MIXERS
from tests.mixers import ALL, REPRESENTATIVE
from tests.models.stacks import restacked

VOCAB, WIDTH, CHUNK = 23, 16, 8
# One token, a rest of several chunks, and less than a chunk.
LENGTHS = (1, 27, 6)
# A cache, a state with a convolution, and one with shifted tokens.
HYBRID = ("sliding_attention", "mamba2", "rwkv7")
CAUSAL = [name for name, record in MIXERS.items() if record.causal]


def entry(case):
  return MIXERS[case].mixer, dict(MIXERS[case].options)


@functools.cache
def prepared(cases, **fields):
  """A model of these mixers, and variables that matter."""
  rng = np.random.default_rng(3)
  mixers = tuple(map(entry, cases))
  model = LanguageModel(VOCAB, WIDTH, len(cases), mixers, mlp="none", **fields)
  tokens = np.zeros((1, 1), np.int32)
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  return model, jax.tree.map(
    lambda p: p + 0.2 * rng.normal(size=p.shape).astype(p.dtype), variables
  )


def prompts(lengths=LENGTHS):
  rng = np.random.default_rng(4)
  return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


@functools.cache
def decoder_of(cases):
  return Decoder(*prepared(cases), chunk_size=CHUNK, piece=8)


@functools.cache
def generated(cases):
  rows = decoder_of(cases).generate(prompts(), 12, seeds=[5, 6, 7])
  assert [len(row.tokens) for row in rows] == [12] * 3
  return rows


def forced(model, variables, rows):
  """The log probabilities of each row's tokens, read in one call."""
  apply = jax.jit(model.apply)
  longest = max(map(len, rows))
  padded = np.array([[*row, *[0] * (longest - len(row))] for row in rows])
  logits, _ = apply(variables, padded)
  return np.asarray(jax.nn.log_softmax(logits))


def check_against_teacher_forcing(cases):
  model, variables = prepared(cases)
  rows = [
    [*prompt, *row.tokens]
    for prompt, row in zip(prompts(), generated(cases), strict=True)
  ]
  whole = forced(model, variables, rows)
  for prompt, row, found in zip(
    prompts(), generated(cases), whole, strict=True
  ):
    places = np.arange(len(prompt) - 1, len(prompt) + 11)
    wanted = found[places, row.tokens]
    np.testing.assert_allclose(row.log_probs, wanted, rtol=2e-5, atol=2e-5)


def test_generation_of_a_hybrid_equals_teacher_forcing():
  check_against_teacher_forcing(HYBRID)


@pytest.mark.parametrize(
  "case", [pytest.param(case, marks=ALL) for case in CAUSAL]
)
def test_generation_of_every_mixer_equals_teacher_forcing(case):
  check_against_teacher_forcing((case,))
  check_continued((case,))


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(c, marks=pytest.mark.slow if c in REPRESENTATIVE else ALL)
    for c in CAUSAL
  ],
)
def test_generation_of_every_hybrid_equals_teacher_forcing(case):
  check_against_teacher_forcing((case, "sliding_attention"))
  check_continued((case, "sliding_attention"))
  check_alone((case, "sliding_attention"))


def check_alone(cases):
  """Each row alone, with its seed, draws what it draws in the batch."""
  decoder = decoder_of(cases)
  for i, (prompt, row) in enumerate(
    zip(prompts(), generated(cases), strict=True)
  ):
    (alone,) = decoder.generate([prompt], 12, seeds=[5 + i])
    assert alone.tokens == row.tokens
    np.testing.assert_allclose(alone.log_probs, row.log_probs, atol=2e-5)


@pytest.mark.slow
def test_a_row_of_a_batch_is_the_row_alone():
  check_alone(HYBRID)


def check_continued(cases):
  """A stream in two parts, of which the second starts from the state."""
  decoder = decoder_of(cases)
  stream = decoder.stream(decoder.start(prompts(), [5, 6, 7]), 5)
  first = collect(stream)
  rest = collect(decoder.stream(stream.state, 7))
  for a, b, whole in zip(first, rest, generated(cases), strict=True):
    assert a.tokens + b.tokens == whole.tokens


def test_a_row_does_not_depend_on_the_others():
  """Rows in another order, beside other prompts, with the same programs."""
  decoder, rows = decoder_of(HYBRID), generated(HYBRID)
  own = prompts()
  other = decoder.generate([own[2], own[0], [3] * 30], 12, seeds=[7, 5, 0])
  for got, wanted in ((other[0], rows[2]), (other[1], rows[0])):
    assert got.tokens == wanted.tokens
    np.testing.assert_allclose(got.log_probs, wanted.log_probs, atol=2e-5)


def test_continued_generation_is_that_of_an_uncut_one():
  decoder = decoder_of(HYBRID)
  stream = decoder.stream(decoder.start(prompts(), [5, 6, 7]), [5, 3, 8])
  first = collect(stream)
  rest = collect(decoder.stream(stream.state, [7, 9, 4]))
  for a, b, whole in zip(first, rest, generated(HYBRID), strict=True):
    assert a.tokens + b.tokens == whole.tokens


def test_a_prompt_may_be_read_in_parts():
  decoder = decoder_of(HYBRID)
  state = decoder.start([row[:1] for row in prompts()], [5, 6, 7])
  state = decoder.read(state, [row[1:15] for row in prompts()])
  state = decoder.read(state, [row[15:] for row in prompts()])
  whole = decoder.start(prompts(), [5, 6, 7])
  for got, wanted in zip(*map(jax.tree.leaves, (state, whole)), strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_scanned_stack_generates_what_an_unrolled_one_does():
  cases = ("gla", "sliding_attention")
  model, variables = prepared(cases)
  scanned = model.clone(scan_layers=True)
  params = dict(variables["params"])
  params["backbone"] = restacked(params["backbone"], 2)
  decoder = Decoder(scanned, {"params": params}, chunk_size=CHUNK, piece=8)
  rows = decoder.generate(prompts(), 12, seeds=[5, 6, 7])
  for got, wanted in zip(rows, generated(cases), strict=True):
    assert got.tokens == wanted.tokens
