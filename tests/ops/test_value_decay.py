"""Linear attention with a decay per value channel."""

import numpy as np
import pytest

from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.testing.errors import relative_error

RNG = np.random.default_rng(0)
Q, K = RNG.standard_normal((2, 2, 20, 3, 4)).astype(np.float32)
V = RNG.standard_normal((2, 20, 3, 5)).astype(np.float32)
DECAY = -(RNG.standard_normal(V.shape).astype(np.float32) ** 2)


def test_the_state_is_that_of_decays_per_key_transposed():
  _, by_value = linear_attention(Q, K, V, value_log_decay=DECAY)
  _, by_key = linear_attention(V, V, K, DECAY)
  assert relative_error(by_value, by_key.mT) < 2e-5


@pytest.mark.parametrize(
  "others",
  [
    {"log_decay": DECAY[..., 0]},
    {"bonus": Q[0, 0]},
  ],
)
def test_other_decays_and_a_bonus_are_refused(others):
  with pytest.raises(ValueError, match="value_log_decay is not supported"):
    linear_attention(Q, K, V, value_log_decay=DECAY, **others)


def test_a_growing_value_is_refused():
  words = "value_log_decay must be at most 0"
  with checks.numerics(), pytest.raises(ValueError, match=words):
    linear_attention(Q, K, V, value_log_decay=-DECAY)
