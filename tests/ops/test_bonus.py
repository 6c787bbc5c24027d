"""Linear attention with a bonus, from linear attention without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 70
IDS = np.arange(LENGTH, dtype=np.int32)[None].repeat(2, 0) // 20


def both(decay, bonus, **changes):
  """With the bonus and without, of the same arguments."""
  draw = draws.linear_attention(decay, bonus=True)
  drawn = jax.tree.map(np.float32, draw(np.random.default_rng(0), LENGTH))
  drawn |= changes | {"bonus": bonus, "segment_ids": IDS, "method": "chunked"}
  with_bonus = compiled("linear_attention")(**drawn)
  del drawn["bonus"]
  return drawn, with_bonus, compiled("linear_attention")(**drawn)


def test_a_bonus_of_one_without_decay_is_no_bonus():
  ones = np.ones((draws.HEADS, draws.KEYS), np.float32)
  _, (y, state), (plain, last) = both(None, ones)
  assert relative_error(y, plain) < 2e-6
  np.testing.assert_array_equal(state, last)


@pytest.mark.parametrize("bonus", [0.0, 3.0])
def test_the_state_that_is_read_has_not_decayed(bonus):
  """`(y_t - (q_t . k_t) v_t) / decay_t` is what it held before the token."""
  rng = np.random.default_rng(1)
  log_decay = rng.uniform(-1, 0, (2, LENGTH, draws.HEADS)).astype(np.float32)
  bonus = np.full((draws.HEADS, draws.KEYS), bonus, np.float32)
  drawn, (y, state), (plain, last) = both("head", bonus, log_decay=log_decay)
  own = jnp.sum(drawn["q"] * drawn["k"], -1, keepdims=True) * drawn["v"]
  before = (plain - own) / np.exp(log_decay)[..., None]
  assert relative_error(y, before + bonus[0, 0] * own) < 2e-6
  np.testing.assert_array_equal(state, last)
