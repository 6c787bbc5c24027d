"""What `check_mixer` says of a right mixer, and its bars for low precision."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import GLA
from jaxmodels.ops import diagonal_recurrence
from jaxmodels.testing import FORMS, check_mixer, sizes, trial

LENGTH = 20


class Cancels(nn.Module):
  """The decaying sum of a small difference of large numbers.

  Its recurrent form is as inexact in bfloat16 as its inputs make it.
  """

  fault: str = ""
  width: int = 6
  method: str = "chunked"
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    minuend = nn.Dense(6, use_bias=False, dtype=self.dtype, name="minuend")(x)
    other = nn.Dense(6, use_bias=False, dtype=self.dtype, name="other")(x)
    y = minuend - other
    if self.fault == "every form rounds":
      y = y + jnp.asarray(256, self.dtype) - jnp.asarray(256, self.dtype)
    y, state = diagonal_recurrence(
      jnp.full_like(y, 0.8),
      y,
      state,
      segment_ids=segment_ids,
      method=self.method,
      chunk_size=8,
      axis_name=None if self.fault == "is not sharded" else self.axis_name,
    )
    if self.fault == "one form rounds" and self.method == "chunked":
      y = y + jnp.asarray(64, self.dtype) - jnp.asarray(64, self.dtype)
    return y, state

  def init_state(self, batch_size):
    """Zeros."""
    return jnp.zeros((batch_size, 6))


def params(difference):
  rng = np.random.default_rng(0)
  minuend = rng.normal(size=(6, 6)).astype(np.float32)
  change = rng.normal(size=(6, 6)).astype(np.float32)
  other = minuend + np.float32(difference) * change
  return {"minuend": {"kernel": minuend}, "other": {"kernel": other}}


def check(fault="", difference=1.0, **options):
  check_mixer(
    Cancels(fault), params=params(difference), verbose=False, **options
  )


def test_bfloat16_may_be_as_inexact_as_its_inputs(monkeypatch):
  with monkeypatch.context() as patch:
    # The absolute bar alone.
    patch.setattr(trial, "_ROUNDINGS", 0)
    patch.setattr(trial, "_LITTLE", 0)
    with pytest.raises(AssertionError, match=r"bfloat16: y is off by .*2e-02"):
      check(difference=0.03)
  check(difference=0.03)


@pytest.mark.parametrize(
  ("fault", "match"),
  [
    ("every form rounds", "from float32 .allowed .* the parameters alone"),
    ("one form rounds", 'from float32, but by .* with method "recurrent"'),
  ],
)
def test_a_fault_in_bfloat16_is_caught(fault, match):
  with pytest.raises(AssertionError, match=f"bfloat16: y is off by .*{match}"):
    check(fault)


@pytest.mark.slow
def test_every_form_of_a_mixer_sharded_too():
  check(methods=FORMS)
  match = 'method "sequence-parallel" against "recurrent": y is off'
  with pytest.raises(AssertionError, match=match):
    check("is not sharded", methods=("sequence-parallel",))


def test_a_line_for_each_check_and_each_that_is_left_out(capsys, monkeypatch):
  monkeypatch.setattr(trial, "default_shards", lambda: 1)
  check_mixer(
    GLA(4, heads=1, gate_rank=2), methods=("sequence-parallel", "full")
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "GLA, x [2, 20, 4]"
  for line in (
    'method "sequence-parallel": skipped, there is one device',
    "gradients: right",
    "cut and continued: right",
    "packed against separate: right",
    "bfloat16: right",
  ):
    assert line in lines
  (full,) = (line for line in lines if '"full"' in line)
  assert full.startswith(
    'method "full": skipped, linear_attention: method must'
  )
  assert "  gradients: " in lines[-2]
  assert lines[-1].startswith("memory: ")


class Plain(nn.Module):
  """Has nothing to choose."""

  width: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = nn.Dense(4)(x)
    return diagonal_recurrence(
      jnp.full_like(x, 0.9), x, state, segment_ids=segment_ids
    )

  def init_state(self, batch_size):
    """Zeros."""
    return jnp.zeros((batch_size, 4))


def test_a_mixer_without_fields_says_what_it_lacks(capsys):
  check_mixer(Plain(), methods=("chunked", "sequence-parallel"))
  out = capsys.readouterr().out
  assert 'method "chunked": skipped, the module has no field method' in out
  assert "skipped, the module has no field axis_name" in out
  assert "bfloat16: skipped, the module has no field dtype" in out
  assert "memory: 7 tokens" in out


def test_verbose_can_be_switched_off(capsys):
  check(bfloat16=False)
  assert not capsys.readouterr().out


def decaying(rate):
  return lambda x: diagonal_recurrence(jnp.full_like(x, rate), x)[0]


def window(x):
  """The mean of nine tokens."""
  sums = jnp.cumsum(x, 1)
  return sums - jnp.pad(sums, ((0, 0), (9, 0), (0, 0)))[:, :-9]


@pytest.mark.parametrize(
  ("function", "memory"),
  [
    # Half-lives: log(1/2) / log(rate), rounded up.
    (decaying(0.5), 1),
    (decaying(0.8), 4),
    (decaying(0.9), 7),
    (decaying(0.97), 23),
    (decaying(0.999), np.inf),
    (decaying(1.0), np.inf),
    (window, 4),
    (lambda x: 2 * x, 0),
    # What token T itself passes on is no memory.
    (lambda x: 100 * x + decaying(0.9)(x), 7),
  ],
)
def test_memory_is_the_half_life(function, memory):
  assert sizes.memory_of(function, 4) == memory


@pytest.mark.parametrize(("rate", "memory"), [(0.9, 7), (0.99, np.inf)])
def test_memory_on_both_sides(rate, memory):
  def both(x):
    return decaying(rate)(x) + decaying(rate)(x[:, ::-1])[:, ::-1]

  assert sizes.memory_of(both, 4, two_sided=True) == memory
