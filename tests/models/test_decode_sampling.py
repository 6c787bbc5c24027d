"""The distributions that tokens are drawn from, and where rows stop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmodels.models import LanguageModel
from jaxmodels.models.decode import Decoder, Sampling
from jaxmodels.models.decode.sampling import log_shares, scores

LOGITS = np.log([0.05, 0.4, 0.1, 0.2, 0.25]).astype(np.float32)
NONE = np.zeros(5, bool)


def shares(seen=NONE, allowed=None, logits=LOGITS, **fields):
  sampling = Sampling(**fields)

  def run(logits, seen):
    mask = None if allowed is None else jnp.asarray(allowed)
    return log_shares(scores(logits, seen, mask, sampling), sampling)

  return np.exp(np.asarray(jax.jit(run)(logits, np.asarray(seen))))


def normalised(values):
  return np.array(values) / np.sum(values)


@pytest.mark.parametrize(
  ("fields", "wanted"),
  [
    ({}, [0.05, 0.4, 0.1, 0.2, 0.25]),
    ({"temperature": 0.5}, [0.0025, 0.16, 0.01, 0.04, 0.0625]),
    ({"temperature": 0}, [0, 1, 0, 0, 0]),
    ({"top_k": 2}, [0, 0.4, 0, 0, 0.25]),
    ({"top_p": 0.66}, [0, 0.4, 0, 0.2, 0.25]),
    ({"top_p": 0.64}, [0, 0.4, 0, 0, 0.25]),
    ({"min_p": 0.24}, [0, 0.4, 0.1, 0.2, 0.25]),
    ({"min_p": 0.26}, [0, 0.4, 0, 0.2, 0.25]),
    # 0.4 / 0.85 is less than 0.6, and with 0.25 / 0.85 it is more.
    ({"top_k": 3, "top_p": 0.6}, [0, 0.4, 0, 0, 0.25]),
    ({"allowed": [True, False, True, True, False]}, [0.05, 0, 0.1, 0.2, 0]),
  ],
)
def test_the_distribution_is_what_the_fields_say(fields, wanted):
  np.testing.assert_allclose(shares(**fields), normalised(wanted), atol=1e-6)


def test_the_penalty_lowers_what_the_row_has():
  """CTRL: positive logits are divided, and negative ones multiplied."""
  logits = np.array([2.0, -1.0, 0.5, 2.0, -1.0], np.float32)
  seen = np.array([True, True, False, False, False])
  wanted = np.exp([2.0 / 1.5, -1.0 * 1.5, 0.5, 2.0, -1.0])
  found = shares(seen, logits=logits, repetition_penalty=1.5)
  np.testing.assert_allclose(found, normalised(wanted), atol=1e-6)


def test_top_p_equals_a_search_over_sorted_tokens():
  rng = np.random.default_rng(0)
  for top_p in (0.1, 0.5, 0.9, 0.99):
    logits = rng.normal(size=50).astype(np.float32) * 3
    p = np.exp(logits - logits.max())
    p = p / p.sum()
    order = np.argsort(-p)
    count = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
    found = np.flatnonzero(
      shares(np.zeros(50, bool), logits=logits, top_p=top_p)
    )
    assert set(found) == set(order[:count])


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("temperature", -1.0),
    ("top_k", 0),
    ("top_p", 0.0),
    ("top_p", 1.5),
    ("min_p", -0.5),
    ("repetition_penalty", 0.0),
  ],
)
def test_wrong_fields_are_named(field, value):
  with pytest.raises(ValueError, match=f"Sampling: {field} must be"):
    Sampling(**{field: value})


class Counter(nn.Module):
  """After token t it most likely draws t + 1 of a vocabulary of 12."""

  vocab_size: int = 12
  sharpness: float = 50.0

  @nn.compact
  def __call__(self, tokens, state=None, *, segment_ids=None):
    nexts = (tokens + 1) % self.vocab_size
    logits = self.sharpness * jax.nn.one_hot(nexts, self.vocab_size)
    state = self.init_state(tokens.shape[0]) if state is None else state
    return logits, state + tokens.sum(1).astype(state.dtype)

  def init_state(self, batch_size):
    return jnp.zeros((batch_size,), jnp.float32)


@dataclasses.dataclass
class Letters:
  """Token n is the letter n."""

  def decode(self, tokens):
    return bytes(97 + token for token in tokens)


def counter(sampling=Sampling(temperature=0), **options):  # noqa: B008
  return Decoder(Counter(), {}, sampling, **options)


def test_rows_end_at_a_stop_token_and_keep_their_states():
  decoder = counter(stop_tokens=(5,))
  stream = decoder.stream(decoder.start([[1], [0, 3], [6]]), 4)
  pieces = list(stream)
  rows = [[t for p in pieces for t in p.tokens[i]] for i in range(3)]
  assert rows == [[2, 3, 4, 5], [4, 5], [7, 8, 9, 10]]
  assert stream.reasons == ["stop", "stop", "length"]
  # The sums of all tokens but the last one, which is not read yet.
  assert stream.state.model.tolist() == [10, 7, 30]
  assert stream.state.token.tolist() == [5, 5, 10]


def test_rows_end_at_a_stop_string_and_keep_their_states():
  decoder = counter(piece=8)
  stops = {"stop_strings": ["fg", "zz"], "decode": Letters().decode}
  rows = decoder.generate([[1], [4]], 20, **stops)
  assert [row.tokens for row in rows] == [[2, 3, 4, 5, 6], [5, 6]]
  assert [row.reason for row in rows] == ["stop", "stop"]
  stream = decoder.stream(decoder.start([[1], [4]]), 3, **stops)
  list(stream)
  assert stream.reasons == ["length", "stop"]
  assert stream.state.model.tolist() == [1 + 2 + 3, 4 + 5]


def test_padding_of_the_vocabulary_is_never_drawn():
  flat = Decoder(
    Counter(sharpness=0.0), {}, Sampling(), allowed=3, stop_tokens=()
  )
  (row,) = flat.generate([[1]], 200)
  assert set(row.tokens) == {0, 1, 2}
  np.testing.assert_allclose(row.log_probs, np.log(1 / 3), rtol=1e-6)
  with pytest.raises(ValueError, match="must be 1 to 12 tokens, got 13"):
    counter(allowed=13)
  with pytest.raises(ValueError, match="allowed must be 12 bools"):
    counter(allowed=[True])


def test_a_penalty_reads_the_prompt_and_what_was_drawn():
  decoder = Decoder(
    Counter(sharpness=1.0),
    {},
    Sampling(temperature=0, repetition_penalty=1e6),
  )
  # 2 has been read: its logit is nearly 0, and that of token 0 is 0 too.
  (row,) = decoder.generate([[2, 1]], 3)
  assert row.tokens[0] == 2
  (free,) = counter().generate([[2, 1]], 3)
  assert free.tokens == [2, 3, 4]


@pytest.mark.parametrize(
  ("prompts", "seeds", "match"),
  [
    ([], None, "prompts must not be empty"),
    ([[1], []], None, "the prompt is empty"),
    ([[12]], None, r"tokens must be in \[0, 12\), got \[12\]"),
    ([[1], [2]], [0], "2 prompts need as many seeds, got 1"),
  ],
)
def test_wrong_prompts_are_named(prompts, seeds, match):
  with pytest.raises(ValueError, match=match):
    counter().start(prompts, seeds)


def test_wrong_streams_are_named():
  decoder = counter()
  for options, match in (
    ({"length": -1}, "length must be at least 0"),
    ({"length": 1, "stop_strings": ["a"]}, "stop_strings need decode"),
    ({"length": 1, "stop_strings": [""], "decode": bytes}, "must not be empty"),
  ):
    with pytest.raises(ValueError, match=match):
      decoder.stream(decoder.start([[1]]), **options)
  with pytest.raises(ValueError, match="the state has 1 rows, got 2 prompts"):
    decoder.read(decoder.start([[1]]), [[1], [2]])


def test_a_cpu_computes_in_float32():
  """bfloat16 products of one row are slow there; widen=False keeps them."""
  model = LanguageModel(
    vocab_size=7,
    width=8,
    depth=1,
    mixers=("gla",),
    mixer_options={"gla": {"heads": 2}},
    dtype=jnp.bfloat16,
    param_dtype=jnp.bfloat16,
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), int))
  variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  for widen, dtype in ((None, jnp.float32), (False, jnp.bfloat16)):
    decoder = Decoder(model, variables, widen=widen)
    assert decoder.model.dtype == dtype
    leaves = jax.tree.leaves(decoder.variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
