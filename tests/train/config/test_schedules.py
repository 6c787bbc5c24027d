import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import (
  AdamW,
  Constant,
  Cosine,
  InverseSquareRoot,
  Linear,
  WarmupStableDecay,
)
from train.errors import UserError

STEPS, WARMUP = 20, 4
RISE = [0.25, 0.5, 0.75, 1.0]


def shares(schedule, steps=STEPS, warmup=WARMUP, count=STEPS):
  rate = schedule.rate(steps, warmup)
  return np.array([rate(i) for i in range(count)])


def written_by_hand(learning_rate, warmup, end, floor):
  """The only schedule there was before, as it was written."""

  def rate(count):
    step = jnp.asarray(count).astype(jnp.float32) + 1.0
    rise = step / max(warmup, 1)
    share = jnp.clip((step - warmup) / (end - warmup), 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(math.pi * share))
    fall = floor + (1.0 - floor) * cosine
    return learning_rate * jnp.where(step < warmup, rise, fall)

  return rate


@pytest.mark.parametrize(
  ("steps", "warmup", "end"), [(20, 4, None), (30, 0, 25), (2, 1, None)]
)
def test_the_default_is_the_old_schedule_bit_for_bit(steps, warmup, end):
  own = AdamW(3e-3, warmup, Cosine(0.1, end)).rate(steps)
  old = written_by_hand(3e-3, warmup, end or steps, 0.1)
  counts = jnp.arange(40)
  new, old = (jax.jit(jax.vmap(rate))(counts) for rate in (own, old))
  np.testing.assert_array_equal(new, old)


def test_cosine_rises_to_the_top_and_falls_to_the_floor():
  found = shares(Cosine(), count=40)
  np.testing.assert_allclose(found[:4], RISE, rtol=1e-6)
  middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 8 / 16))
  np.testing.assert_allclose(found[11], middle, rtol=1e-6)
  np.testing.assert_allclose(found[19:], 0.1, rtol=1e-6)
  longer = shares(Cosine(end_step=20), steps=1000, count=40)
  np.testing.assert_array_equal(longer, found)
  # A warm-up that would outlast the run is cut.
  assert np.isfinite(shares(Cosine(), steps=2)).all()


def test_linear_is_a_line():
  found = shares(Linear(floor=0.2), count=30)
  np.testing.assert_allclose(found[:4], RISE, rtol=1e-6)
  line = 1 - 0.8 * np.arange(1, 17) / 16
  np.testing.assert_allclose(found[4:20], line, rtol=1e-6)
  np.testing.assert_allclose(found[20:], 0.2, rtol=1e-6)


@pytest.mark.parametrize("shape", ["linear", "square_root"])
def test_warmup_stable_decay_falls_over_the_last_fifth(shape):
  found = shares(WarmupStableDecay(floor=0.0, shape=shape), count=30)
  np.testing.assert_allclose(found[:4], RISE, rtol=1e-6)
  np.testing.assert_allclose(found[4:16], 1.0, rtol=1e-6)
  done = np.arange(1, 5) / 4
  fall = 1 - (np.sqrt(done) if shape == "square_root" else done)
  np.testing.assert_allclose(found[16:20], fall, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(found[20:], 0.0, atol=1e-6)


def test_constant_stays_and_its_warmup_may_outlast_the_run():
  np.testing.assert_allclose(shares(Constant())[4:], 1.0)
  np.testing.assert_allclose(shares(Constant(), steps=2)[:4], RISE, rtol=1e-6)


def test_inverse_square_root_is_that_of_vaswani():
  found = shares(InverseSquareRoot())
  step = np.arange(1, STEPS + 1)
  wanted = np.minimum(step / WARMUP, np.sqrt(WARMUP / step))
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  slower = shares(InverseSquareRoot(timescale=12))
  wanted = np.sqrt(12 / (12 + step[4:] - WARMUP))
  np.testing.assert_allclose(slower[4:], wanted, rtol=1e-6)


def test_which_schedules_depend_on_the_length_of_the_run():
  free = (Constant(), InverseSquareRoot(), Cosine(end_step=9))
  bound = (Cosine(), Linear(), WarmupStableDecay())
  assert not any(s.depends_on_steps() for s in free)
  assert all(s.depends_on_steps() for s in bound)
  # Such a run may be extended: the updates that are done stay the same.
  for schedule in free:
    short, long = (shares(schedule, steps=n) for n in (STEPS, 500))
    np.testing.assert_array_equal(short, long)


def test_schedules_of_optax_have_the_same_values():
  cosine = optax.cosine_decay_schedule(1.0, 16, 0.1)
  wanted = [cosine(i) for i in range(1, 17)]
  np.testing.assert_allclose(shares(Cosine())[4:], wanted, rtol=1e-6)


@pytest.mark.parametrize(
  ("schedule", "part"),
  [
    (Cosine(floor=1.5), "schedule.floor is 1.5, but must be between 0 and 1"),
    (Linear(end_step=100), "end_step is 100, but must be more than warmup"),
    (WarmupStableDecay(decay_share=-0.1), "decay_share is -0.1"),
    (WarmupStableDecay(shape="cubic"), "one of linear, square_root"),
    (InverseSquareRoot(timescale=0), "timescale is 0, but must be 1 to"),
  ],
)
def test_values_that_cannot_be_are_named(schedule, part):
  with pytest.raises(UserError) as error:
    AdamW(schedule=schedule).check()
  assert part in str(error.value)
