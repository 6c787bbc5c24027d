"""Decays and write strengths of mixers, also for extreme parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import gates
from jaxmodels.layers.gates import bounded_decay, log_decay
from jaxmodels.layers.state_space import zero_order_hold
from jaxmodels.mixers import MIXERS
from jaxmodels.testing.examples.mixers import parts as plain

# Numbers of float32 where exp and softplus are finite, overflow or underflow.
NUMBERS = [-1e30, -300, -200, -120, -100, -40, -21, -20, -19, -5, -1, 0]
NUMBERS += [1, 5, 40, 80, 88, 88.7, 100, 300, 1e30]
LEAST, MOST = 1.2e-38, 1.6e38


def compare(got, wanted, allowed):
  """Compares where float32 has the number; elsewhere values must be finite."""
  assert np.isfinite(got).all()
  with np.errstate(all="ignore"):
    known = (np.abs(wanted) > LEAST) & (np.abs(wanted) < MOST / 8)
    error = np.abs(got - wanted) / np.abs(wanted)
  assert known.any()
  assert error[known].max() < allowed


def test_log_decays_and_their_gradients_are_right_or_finite():
  rate, x = np.meshgrid(*2 * [np.float32(NUMBERS)])
  got, pull_back = jax.vjp(jax.jit(log_decay), rate, x)
  slopes = pull_back(jnp.ones_like(got))
  rate, x = rate.astype(float), x.astype(float)
  with np.errstate(all="ignore"):
    few = np.exp(np.minimum(x, 0))
    log_softplus = np.where(
      x < -20, x - few / 2, np.log(np.maximum(x, 0) + np.log1p(np.exp(-abs(x))))
    )
    wanted = -np.exp(rate + log_softplus)
    sigmoid = np.minimum(x, 0) - np.log1p(np.exp(-abs(x)))
    slope = -np.exp(rate + sigmoid)
  # The rounding error of a sum of logarithms of up to 400.
  compare(got, wanted, 4e-5)
  compare(slopes[0], wanted, 4e-5)
  compare(slopes[1], np.where(np.abs(wanted) < MOST, slope, 0), 4e-5)
  usual = (np.abs(rate) < 10) & (np.abs(x) < 10)
  compare(got[usual], wanted[usual], 2e-6)


def test_bounded_decays_stay_within_their_bound():
  """Their values and gradients are finite for rates that overflow."""
  rate, x = jnp.float32([-100, 0, 1, 100]), jnp.float32([-2, 0.5, -1, 3])
  got, pull_back = jax.vjp(
    jax.jit(lambda rate, x: bounded_decay(rate, x, -5.0)), rate, x
  )
  wanted = -5 / (1 + np.exp(-np.exp(np.float64([-100, 0, 1, 9])) * x))
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  assert all(np.isfinite(g).all() for g in pull_back(jnp.ones_like(got)))


def test_fixed_decays_equal_those_of_retnet():
  wanted = [31 / 32, 63 / 64, 127 / 128, 255 / 256]
  np.testing.assert_allclose(np.exp(gates.fixed_decay(4)), wanted, rtol=1e-15)


class Gates(nn.Module):
  """Each function that makes parameters, on its own."""

  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, per_key):
    logits = gates.low_rank(self, x, 2, 6 if per_key else 3)
    decay = gates.softplus_decay(self, logits, 3, (1.0, 16.0), per_key=per_key)
    return gates.beta(self, x, 3, largest=2.0), *decay


@pytest.mark.parametrize("per_key", [False, True])
def test_decays_and_write_strengths_equal_their_equations(per_key):
  x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
  params = Gates().init(jax.random.key(0), x, per_key)
  beta, decay, logits = Gates().apply(params, x, per_key)
  p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params["params"])
  wanted = 2 / (1 + np.exp(-plain.dense(p["beta"], x)))
  np.testing.assert_allclose(beta, wanted, rtol=1e-5)
  wanted = plain.dense(p["decay_up"], plain.dense(p["decay_down"], x))
  wanted = wanted + p["dt_bias"]
  np.testing.assert_allclose(logits, wanted, rtol=1e-4)
  step = plain.softplus(wanted).reshape(2, 5, 3, -1)
  wanted = -np.exp(p["A_log"])[:, None] * step
  wanted = wanted if per_key else wanted[..., 0]
  np.testing.assert_allclose(decay, wanted, rtol=1e-4)
  # Initial values: rates in [1, 16], steps in [0.001, 0.1].
  assert ((np.exp(p["A_log"]) >= 1) & (np.exp(p["A_log"]) <= 16)).all()
  steps = plain.softplus(p["dt_bias"])
  assert ((steps > 0.999e-3) & (steps < 1.001e-1)).all()


def test_gates_compute_in_float32_for_bfloat16():
  x = jnp.ones((1, 2, 8), jnp.bfloat16)
  layer = Gates(dtype=jnp.bfloat16)
  params = layer.init(jax.random.key(0), x, False)
  for leaf in layer.apply(params, x, False):
    assert leaf.dtype == jnp.float32


def test_a_sigmoid_decay_equals_a_root_of_the_sigmoid():
  logits = np.float32([[[-200, -3, 0, 3]]])
  got = gates.sigmoid_decay(logits, 2, 16.0)
  wanted = -np.log1p(np.exp(-logits.astype(float))) / 16
  np.testing.assert_allclose(got, wanted.reshape(1, 1, 2, 2), rtol=1e-5)


def test_zero_order_hold_and_its_gradients_are_right_or_finite():
  logs = np.float32([-1e4, -300, -100, -88, -60, -10, -1, 0, 3, 10])
  logs = np.concatenate([logs, np.float32([40, 60, 80, 86, 88.7, 100, 1e4])])
  given = np.meshgrid(logs, np.float32([0, 0.5, -50, 1e3]), logs)
  given = [x.ravel() for x in given]
  (a, gain), pull_back = jax.vjp(jax.jit(zero_order_hold), *given)
  by_rate, by_frequency, by_step = pull_back(
    (jnp.ones_like(a), jnp.zeros_like(gain))
  )
  assert all(map(np.all, map(np.isfinite, (by_rate, by_frequency, by_step))))
  by_rate, _, by_step = pull_back((jnp.zeros_like(a), jnp.ones_like(gain)))
  rate, frequency, step = (x.astype(np.float64) for x in given)
  # Beyond, the step squared, a slope of the gain, overflows.
  ordinary = np.abs(frequency) + step < 86
  assert np.isfinite(by_rate[ordinary]).all()
  assert np.isfinite(by_step[ordinary]).all()
  with np.errstate(all="ignore"):
    rates = -np.exp(rate) + 1j * frequency
    exponent = rates * np.exp(step)
    small = np.abs(exponent) < 1e-5
    ratio = np.expm1(exponent) / np.where(small, 1, exponent)
    ratio = np.where(small, 1 + exponent / 2, ratio)
    wanted = np.where(
      np.abs(exponent) > 1e3, np.expm1(exponent) / rates, np.exp(step) * ratio
    )
    turned = np.abs(frequency * np.exp(step)) < 30  # The phase has digits.
  kept = turned & np.isfinite(exponent) & (np.abs(rate) < 87)
  compare(np.asarray(gain)[kept], wanted[kept], 1e-4)
  compare(np.asarray(a)[kept], np.exp(exponent[kept]), 1e-4)


EXTREME = {
  "A_log": (100.0, 88.0, -100.0),
  "dt_bias": (-200.0, -120.0, 100.0),
  "log_decay_rate": (88.5, 100.0, -100.0),
  "log_step": (88.5, -100.0, 100.0),
  "log_frequency": (88.5, 100.0, -100.0),
  "Lambda": (100.0, -100.0, 0.0),
}


@pytest.mark.parametrize(
  "name",
  [
    "gated_deltanet",
    pytest.param("kda", marks=pytest.mark.slow),
    "mamba2",
    "s5",
    pytest.param("gla", marks=pytest.mark.slow),
    pytest.param("lru", marks=pytest.mark.slow),
    pytest.param("rg_lru", marks=pytest.mark.slow),
    pytest.param("s4d", marks=pytest.mark.slow),
  ],
)
def test_mixers_with_extreme_parameters_stay_finite(name):
  options = {"head_width": 8, "state_width": 4} if name == "mamba2" else {}
  mixer = MIXERS[name](width=8, **options)
  x = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
  shapes = jax.eval_shape(mixer.init, jax.random.key(0), x)

  def draw(which):
    rng = np.random.default_rng(0)

    def leaf(path, like):
      drawn = 0.3 * rng.standard_normal(like.shape).astype(like.dtype)
      value = EXTREME.get(path[-1].key)
      if name == "gla" and path[-1].key == "bias":
        value = (-1e30, 1e30, -200.0)
      return drawn if value is None else np.full_like(drawn, value[which])

    return jax.tree_util.tree_map_with_path(leaf, shapes)

  @jax.jit
  def results(params, x):
    def loss(params, x):
      y, state = mixer.apply(params, x)
      return jnp.sum(jnp.sin(y)), (y, state)

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  for which in range(3):
    for leaf in jax.tree.leaves(results(draw(which), x)):
      assert np.isfinite(leaf).all()


def test_negative_decays_and_their_gradients():
  """2 a - 1, also where a is 1/2, 1 or 0 and its logarithm has no slope."""
  near = np.float32([0.69, 0.693, 0.6931, 0.69314, 0.693146, np.log(2)])
  logs = -np.concatenate([np.float32([0, 1e-6, 0.1, 2, 80, 1e4]), near])

  def decay(logs):
    size, sign = gates.negative_decay(logs)
    return sign * jnp.exp(size)

  exact = np.exp(logs.astype(np.float64))
  got, slope = jax.vmap(jax.value_and_grad(decay))(logs)
  np.testing.assert_allclose(got, 2 * exact - 1, atol=2e-7)
  np.testing.assert_allclose(slope, 2 * exact, rtol=1e-5, atol=1e-6)
