"""Forecasters: what scales, shifts, order and number of variates do."""

import functools

import jax
import numpy as np
import pytest

from jaxmodels.layers import MLP
from jaxmodels.mixers import GatedConvolution
from jaxmodels.models import Backbone, Forecaster, InvertedForecaster

X = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
STACK = {"width": 8, "depth": 1, "mlp": "none", "horizon": 4}
ONE_BY_ONE = Forecaster(
  mixers=("short_convolution",), patch_size=2, linear=True, **STACK
)
QUICK = Forecaster(mixers=(MLP(8),), **STACK)
ANY_ORDER = InvertedForecaster(
  mixers=(("lion", {"decay": "none", "heads": 2}),), **STACK
)
TIED = {"mixer": GatedConvolution(8), "tied": True}
BOTH_WAYS = InvertedForecaster(mixers=(("bidirectional", TIED),), **STACK)
MODELS = (QUICK, ONE_BY_ONE, ANY_ORDER, BOTH_WAYS)


def drawn(model):
  """A compiled model and its parameters."""
  return _drawn(MODELS.index(model))


@functools.cache
def _drawn(number):
  """Random parameters, so that none has a special value."""
  model = MODELS[number]
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: 0.5 * rng.normal(size=p.shape).astype(p.dtype),
    jax.eval_shape(model.init, jax.random.key(0), X),
  )
  return jax.jit(lambda x: model.apply(params, x)[0]), params


def test_it_is_the_stack_on_the_normalised_patches_of_a_variate():
  run, params = drawn(ONE_BY_ONE)
  own = dict(params["params"])
  maps = {name: own.pop(name) for name in ("input", "output", "linear")}
  names = ("width", "depth", "mlp", "mixers")
  stack = Backbone(**{name: getattr(ONE_BY_ONE, name) for name in names})
  mean, deviation = X.mean(1, keepdims=True), X.std(1, keepdims=True)
  scaled = np.moveaxis((X - mean) / deviation, 2, 1).reshape(6, 12)

  def dense(name, x):
    return x @ np.asarray(maps[name]["kernel"]) + np.asarray(maps[name]["bias"])

  tokens = dense("input", scaled.reshape(6, 6, 2))
  h, _ = jax.jit(stack.apply)({"params": own}, tokens)
  y = dense("output", np.asarray(h)[:, -1]) + dense("linear", scaled)
  y = np.moveaxis(y.reshape(2, 3, 4), 1, 2) * deviation + mean
  np.testing.assert_allclose(run(X), y, atol=1e-4)


@pytest.mark.parametrize("model", [QUICK, ANY_ORDER], ids=["one", "inverted"])
def test_a_scaled_and_shifted_variate_has_that_forecast(model):
  run, _ = drawn(model)
  scale = np.array([1, 30, 0.1], np.float32)
  shift = np.array([0, -5, 2], np.float32)
  y = np.asarray(run(X))
  np.testing.assert_allclose(
    run(X * scale + shift), y * scale + shift, rtol=1e-3, atol=1e-4
  )
  # A constant variate has no scale.
  flat = X.copy()
  flat[..., 1] = 7
  assert np.isfinite(run(flat)).all()
  assert np.abs(run(flat + np.float32(1)) - run(flat) - 1).max() < 1e-4


def test_a_variate_is_forecast_from_itself_alone():
  run, _ = drawn(ONE_BY_ONE)
  changed = X.copy()
  changed[..., 1] += np.sin(np.arange(12, dtype=np.float32))
  first, second = np.asarray(run(X)), np.asarray(run(changed))
  np.testing.assert_array_equal(first[..., ::2], second[..., ::2])
  assert np.abs(first - second)[..., 1].max() > 1e-3


def test_variates_in_another_order_have_their_forecasts():
  run, params = drawn(ANY_ORDER)
  order = np.array([2, 0, 1])
  np.testing.assert_allclose(
    run(X[..., order]), run(X)[..., order], atol=1e-5, rtol=1e-4
  )
  # Any number of variates. One more changes the forecasts of the others.
  more = np.concatenate([X, X[..., :1] ** 2], -1)
  y = jax.jit(ANY_ORDER.apply)(params, more)[0]
  assert y.shape == (2, 4, 4)
  assert np.abs(y[..., :3] - run(X)).max() > 1e-3


def test_both_directions_with_tied_weights_reverse_with_the_variates():
  run, _ = drawn(BOTH_WAYS)
  back, y = run(X[..., ::-1].copy()), np.asarray(run(X))
  np.testing.assert_allclose(back, y[..., ::-1], atol=1e-5, rtol=1e-4)
  # A recurrence depends on the order otherwise.
  assert np.abs(run(X[..., [1, 0, 2]]) - y[..., [1, 0, 2]]).max() > 1e-3


@pytest.mark.parametrize(
  ("change", "x", "match"),
  [
    ({"patch_size": 5}, X, "patch_size must divide the 12 steps .*, got 5"),
    ({"horizon": 0}, X, "Forecaster: horizon must be at least 1, got 0"),
    ({"head": "lst"}, X, "head.*lst"),
    ({"axis_name": "sequence"}, X, "cannot be sharded along their steps"),
    ({}, X[0], r"Forecaster: x must be \[B, L, C\]"),
  ],
)
def test_the_error_names_what_is_wrong(change, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(QUICK.clone(**change).init, jax.random.key(0), x)


def test_a_window_is_one_sequence():
  ids = np.zeros((2, 12), np.int32)
  with pytest.raises(ValueError, match="segment_ids must be None"):
    jax.eval_shape(QUICK.init, jax.random.key(0), X, segment_ids=ids)
