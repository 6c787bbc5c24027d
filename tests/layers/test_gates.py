"""Decays of mixers whatever their parameters are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.gates import log_decay
from jaxmodels.mixers import MIXERS
from jaxmodels.mixers.s5 import zero_order_hold

# Of float32, and where its exponential and softplus have none.
NUMBERS = [-1e30, -300, -200, -120, -100, -40, -21, -20, -19, -5, -1, 0]
NUMBERS += [1, 5, 40, 80, 88, 88.7, 100, 300, 1e30]
LEAST, MOST = 1.2e-38, 1.6e38


def compare(got, wanted, allowed):
  """Where float32 has the number; all of it is finite."""
  assert np.isfinite(got).all()
  with np.errstate(all="ignore"):
    known = (np.abs(wanted) > LEAST) & (np.abs(wanted) < MOST / 8)
    error = np.abs(got - wanted) / np.abs(wanted)
  assert known.any()
  assert error[known].max() < allowed


def test_log_decays_and_their_gradients():
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
  # Of a sum of logarithms up to 400, rounded.
  compare(got, wanted, 4e-5)
  compare(slopes[0], wanted, 4e-5)
  compare(slopes[1], np.where(np.abs(wanted) < MOST, slope, 0), 4e-5)
  usual = (np.abs(rate) < 10) & (np.abs(x) < 10)
  compare(got[usual], wanted[usual], 2e-6)


def test_a_zero_order_hold_and_its_gradients():
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
  # The step squared is the slope of the gain by a frequency of 0.
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
    turned = np.abs(frequency * np.exp(step)) < 30  # Has digits of a phase.
  kept = turned & np.isfinite(exponent) & (np.abs(rate) < 87)
  compare(np.asarray(gain)[kept], wanted[kept], 1e-4)
  compare(np.asarray(a)[kept], np.exp(exponent[kept]), 1e-4)


EXTREME = {
  "A_log": (100.0, 88.0, -100.0),
  "dt_bias": (-200.0, -120.0, 100.0),
  "log_decay_rate": (88.5, 100.0, -100.0),
  "log_step": (88.5, -100.0, 100.0),
}


@pytest.mark.parametrize(
  "name",
  [
    "gated_deltanet",
    pytest.param("kda", marks=pytest.mark.slow),
    "mamba2",
    "s5",
    pytest.param("gla", marks=pytest.mark.slow),
  ],
)
def test_mixers_of_extreme_parameters(name):
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
