"""Speculative decoding has the distribution of the large model."""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from jaxmodels.models import LanguageModel
from jaxmodels.models.decode import Decoder, Sampling, Speculative

VOCAB, ROWS = 4, 4000


@functools.cache
def model(mixers, seed, scale):
  network = LanguageModel(
    vocab_size=VOCAB,
    width=8,
    depth=len(mixers),
    mixers=mixers,
    mixer_options=OPTIONS,
    mlp="none",
  )
  tokens = np.zeros((1, 1), np.int32)
  variables = jax.jit(network.init)(jax.random.key(seed), tokens)
  rng = np.random.default_rng(seed)
  return network, jax.tree.map(
    lambda p: p + scale * rng.normal(size=p.shape).astype(p.dtype), variables
  )


LARGE = ("gla", "sliding_attention")
OPTIONS = {
  "gla": {"heads": 2},
  "sliding_attention": {"heads": 2, "window": 5},
}


def pair(sampling, **options):
  large = Decoder(*model(LARGE, 0, 0.4), sampling, chunk_size=1, **options)
  return large, Decoder(*model(("s5",), 1, 0.4), chunk_size=1)


@pytest.mark.slow
def test_greedy_tokens_are_those_of_the_large_model():
  large, small = pair(Sampling(temperature=0), stop_tokens=(3,))
  prompts = [[1], [2, 0, 3, 1, 2, 2, 1], [0, 2]]
  speculative = Speculative(large, small, 3)
  wanted = large.generate(prompts, 23)
  found = speculative.generate(prompts, 23)
  for got, row in zip(found, wanted, strict=True):
    assert (got.tokens, got.reason) == (row.tokens, row.reason)
    np.testing.assert_allclose(got.log_probs, row.log_probs, atol=1e-5)
  assert 0 < speculative.kept < 1


@pytest.mark.slow
@pytest.mark.parametrize(
  "fields",
  [
    {"temperature": 0.7, "repetition_penalty": 1.3},
    {"top_k": 3},
    {"top_p": 0.95},
  ],
)
def test_draws_have_the_distribution_of_the_large_model(fields):
  """A chi-squared test of three tokens against teacher forcing."""
  sampling = Sampling(**fields)
  large, small = pair(sampling)
  speculative = Speculative(large, small, 2)
  rows = speculative.generate([[1, 2]] * ROWS, 3)
  places = np.array([row.tokens for row in rows]) @ [VOCAB**2, VOCAB, 1]
  counts = np.bincount(places, minlength=VOCAB**3)
  wanted = ROWS * exact(large, sampling)
  assert not counts[wanted < 1e-9].any()
  often = wanted > 5
  rest = (counts[~often].sum(), wanted[~often].sum())
  kept = [*counts[often], rest[0]], [*wanted[often], rest[1]]
  if rest[1] < 1e-9:
    kept = kept[0][:-1], kept[1][:-1]
  assert stats.chisquare(*kept, sum_check=False).pvalue > 1e-4
  assert 0.1 < speculative.kept < 1


def exact(decoder, sampling):
  """The probability of each continuation by three tokens, in numpy."""
  every = np.array(list(itertools.product(range(VOCAB), repeat=3)))
  rows = np.concatenate([np.tile([1, 2], (len(every), 1)), every], 1)
  apply = jax.jit(decoder.model.apply)
  logits = np.asarray(apply(decoder.variables, rows)[0], np.float64)
  result = np.ones(len(every))
  for i, row in enumerate(rows):
    for place in range(1, 4):
      p = shares(logits[i, place], row[: place + 1], sampling)
      result[i] *= p[row[place + 1]]
  return result


def shares(logits, read, sampling):
  """The distribution of one draw, by sorting."""
  penalty = sampling.repetition_penalty
  seen = np.isin(np.arange(VOCAB), read)
  lowered = np.where(logits > 0, logits / penalty, logits * penalty)
  p = np.exp(np.where(seen, lowered, logits) / sampling.temperature)
  order = np.argsort(-p)
  ranked = p[order] / p.sum()
  if sampling.top_k is not None:
    ranked[sampling.top_k :] = 0
  if sampling.top_p is not None:
    ahead = np.cumsum(ranked) - ranked
    ranked[ahead >= sampling.top_p] = 0
  result = np.zeros(VOCAB)
  result[order] = ranked / ranked.sum()
  return result


@pytest.mark.slow
def test_a_model_keeps_all_proposals_of_its_own():
  large, _ = pair(Sampling())
  speculative = Speculative(large, large, 3)
  speculative.generate([[1, 2], [3]], 24)
  assert speculative.kept == 1 and speculative.calls == 24 / 4


def test_wrong_pairs_are_named():
  large, small = pair(Sampling())
  with pytest.raises(ValueError, match="block must be >= 1, got 0"):
    Speculative(large, small, 0)
  other = LanguageModel(vocab_size=5, width=4, depth=1, mixers=("s5",))
  tokens = np.zeros((1, 1), np.int32)
  variables = jax.eval_shape(other.init, jax.random.key(0), tokens)
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables)
  with pytest.raises(ValueError, match="one vocabulary, got 4 and 5 tokens"):
    Speculative(large, Decoder(other, zeros), 2)
