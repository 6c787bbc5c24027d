"""`check_mixer` on wrong values, and on mixers that read the future."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.common import merge_heads, split_heads
from jaxmodels.mixers import GLA, S5
from jaxmodels.ops import delta_rule, diagonal_recurrence, linear_attention
from jaxmodels.testing import check_mixer

SKIPPED = "not checked, since the mixer reads the future: the zero state, cut"


class Slip(nn.Module):
  """Linear attention or the delta rule with one wrong gate."""

  gate: str
  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    def heads(name):
      return split_heads(nn.Dense(self.width, name=name)(x), 2)

    q, k, v = heads("query"), heads("key"), heads("value")
    gate = nn.Dense(2, name="gate")(x)
    if self.gate == "beta":
      y, state = delta_rule(
        q, k, v, 3 * nn.sigmoid(gate), None, state, segment_ids=segment_ids
      )
    else:
      # A sigmoid is the decay, and the op takes its logarithm.
      y, state = linear_attention(
        q, k, v, nn.sigmoid(gate), state, segment_ids=segment_ids
      )
    return merge_heads(y), state

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, 2, 2, 2))


@pytest.mark.parametrize(
  ("gate", "match"),
  [
    ("log_decay", "linear_attention: log_decay must be at most 0"),
    ("beta", r"delta_rule: beta must lie in \[0, 2\]"),
  ],
)
def test_a_value_that_an_op_does_not_take_is_named(gate, match):
  with pytest.raises(AssertionError, match=f"numeric guard: {match}$"):
    check_mixer(Slip(gate), bfloat16=False)


class Decay(nn.Module):
  """A decaying sum over the past."""

  rate: float
  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = nn.Dense(self.width)(x)
    decay = jnp.full_like(x, self.rate)
    return diagonal_recurrence(
      decay, x, state, segment_ids=segment_ids, method="recurrent"
    )

  def init_state(self, batch_size):
    return jnp.zeros((batch_size, self.width))


class TwoWays(nn.Module):
  """One mixer from the left, and another from the right."""

  left: nn.Module
  right: nn.Module
  leaks: bool = False
  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    y, _ = self.left(x, segment_ids=segment_ids)
    if segment_ids is not None:
      # Ids that only grow from the right, too.
      segment_ids = segment_ids[:, -1:] - segment_ids[:, ::-1]
    if self.leaks:
      segment_ids = None
    z, _ = self.right(x[:, ::-1], segment_ids=segment_ids)
    return y + z[:, ::-1], ()

  def init_state(self, batch_size):
    return ()


def two_ways(**fields):
  return TwoWays(Decay(0.8), Decay(0.9), **fields)


@pytest.mark.slow
def test_two_published_mixers_both_ways():
  both = TwoWays(GLA(4, heads=1, gate_rank=2), S5(4, state_width=4))
  check_mixer(both, causal=False)


def test_a_bidirectional_mixer_is_checked_for_what_it_promises():
  check_mixer(two_ways(), causal=False, bfloat16=False)
  match = "packed against separate: .*; leaked reset"
  with pytest.raises(AssertionError, match=match) as raised:
    check_mixer(two_ways(leaks=True), causal=False, bfloat16=False)
  assert SKIPPED in str(raised.value)
  assert "reads the future: outputs" not in str(raised.value)


def test_reading_the_future_is_no_leaked_reset():
  with pytest.raises(AssertionError, match="reads the future: out") as raised:
    check_mixer(two_ways(), bfloat16=False)
  text = str(raised.value)
  assert "leaked reset" not in text
  assert "lost carry" not in text
  assert SKIPPED in text
  assert "causal=False" in text


class OnlyY(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return nn.Dense(4)(x)

  def init_state(self, batch_size):
    return ()


class NoZero(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return nn.Dense(4)(x), ()


class Wraps(OnlyY):
  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return nn.Dense(4)(x), (jnp.zeros(()),)


@pytest.mark.parametrize(
  ("mixer", "match"),
  [
    (OnlyY, r"OnlyY must return \(y, state\), got float32\[2, 20, 4\]"),
    (Wraps, "Wraps returns a state of the structure .*, but its init_state"),
    (NoZero, "NoZero has no init_state"),
  ],
)
def test_a_breach_of_the_contract_is_one_line(mixer, match):
  params = {
    "Dense_0": {
      "kernel": np.eye(4, dtype=np.float32),
      "bias": np.zeros(4, np.float32),
    }
  }
  with pytest.raises(AssertionError, match=match) as raised:
    check_mixer(mixer(), params=params)
  name = mixer.__name__
  assert str(raised.value).startswith(f"{name} breaks the contract of a mixer")
  assert str(raised.value).count("\n") == 1
