import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train.config import AdamW
from train.data import Batches
from train.devices.summed import over_axis
from train.norm import norm, zero_if_finite
from train.optimizer import make_optimizer
from train.setup import make_learner
from train.state import init_state
from train.step import eval_step, gradients, train_step


@functools.cache
def _usual():
  return _setup()


def setup(**changes):
  """Returns a task, its first state and its first batch."""
  learner, state, batch = _setup(**changes) if changes else _usual()
  return learner, state, {name: x.copy() for name, x in batch.items()}


_COMPILED = {}


def compiled(learner):
  """Compiles once per task; a model need not be hashable."""
  key = id(learner.model), learner.accumulation
  if key not in _COMPILED:
    _COMPILED[key] = learner, jax.jit(functools.partial(train_step, learner))
  return _COMPILED[key][1]


def _setup(**changes):
  config = dataclasses.replace(tiny.get_config(), **changes)
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, config.seed, 12)
  dataset = config.data.open("train")
  batch = next(Batches(dataset, config.batch_size, seed=0))
  return learner, state, batch


def test_loss_is_the_weighted_mean_in_float64():
  learner, state, batch = setup()
  logits, _ = learner.model.apply(
    {"params": state.params},
    batch["inputs"],
    segment_ids=batch["segment_ids"],
  )
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  rows, columns = np.indices(batch["targets"].shape)
  losses = -log_p[rows, columns, batch["targets"]]
  weights = batch["weights"].astype(np.float64)
  assert 0 < weights.sum() < weights.size
  expected = (losses * weights).sum() / weights.sum()
  correct = logits.argmax(-1) == batch["targets"]
  _, metrics = compiled(learner)(state, batch)
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
  np.testing.assert_allclose(
    metrics["bits_per_token"], expected / math.log(2), rtol=1e-6
  )
  np.testing.assert_allclose(
    metrics["accuracy"], (correct * weights).sum() / weights.sum(), rtol=1e-6
  )
  assert metrics["targets"] == weights.sum()
  assert metrics["tokens"] == batch["inputs"].size


@pytest.mark.parametrize("count", [2, 8])
def test_accumulated_equals_full_batch(count):
  learner, state, batch = setup()
  # Unequal weights, or a mean of means would pass too.
  batch["weights"][:3] *= 0.1
  full, expected = compiled(learner)(state, batch)
  parts = learner._replace(accumulation=count)
  summed, metrics = compiled(parts)(state, batch)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  # The first moment is the gradient, clipped, times 1 - b1.
  moments = jax.tree.leaves(full.opt_state)
  for a, b in zip(moments, jax.tree.leaves(summed.opt_state), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9)


def test_devices_sum_weighted_losses_instead_of_averaging_means():
  learner, state, batch = setup()
  batch["weights"][:4] *= 0.1
  _, expected = compiled(learner)(state, batch)
  shares = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), batch)
  summed = over_axis(gradients(learner), "batch")
  lifted = jax.vmap(
    lambda s, b: train_step(learner, s, b, None, summed, 2),
    in_axes=(None, 0),
    axis_name="batch",
  )
  _, metrics = jax.jit(lifted)(state, shares)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name][1], value, rtol=1e-5)


def test_an_infinite_update_is_not_applied_nor_any_after_it():
  learner, state, batch = setup()
  step = compiled(learner)
  state, _ = step(state, batch)
  bad = {**batch, "weights": np.full_like(batch["weights"], np.inf)}
  stopped, metrics = step(state, bad)
  assert not metrics["finite"]
  assert stopped.stopped and stopped.step == 1
  after, metrics = step(stopped, batch)
  assert metrics["finite"]
  after, _ = step(after, batch)
  assert after.stopped and after.step == 1
  for a, b in zip(
    jax.tree.leaves((state.params, state.opt_state)),
    jax.tree.leaves((after.params, after.opt_state)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def assert_stops(learner, state, batch):
  after, metrics = jax.jit(functools.partial(train_step, learner))(state, batch)
  assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
  assert not metrics["finite"] and after.stopped
  assert_same(after.replace(stopped=state.stopped), state)
  return metrics


def test_an_update_that_overflows_is_not_applied():
  decay = AdamW(weight_decay=math.inf, warmup_steps=0)
  metrics = assert_stops(*setup(optimizer=decay))
  assert np.isinf(metrics["update_norm"]) and np.isinf(metrics["param_norm"])


def test_an_adam_update_divided_by_zero_in_float16_is_not_applied():
  # Squares of small gradients and epsilon are 0 in float16.
  assert_stops(*setup(model=tiny.Model(param_dtype=jnp.float16)))


def test_an_optimizer_state_that_overflows_is_not_applied():
  # The square of a gradient is infinite, and its update is then 0.
  plain = optax.GradientTransformation(
    lambda params: params,
    lambda grads, state, params: (
      jax.tree.map(jnp.zeros_like, grads),
      jax.tree.map(lambda g: g / 0, grads),
    ),
  )
  learner, state, batch = setup()
  state = state.replace(opt_state=state.params)
  metrics = assert_stops(learner._replace(optimizer=plain), state, batch)
  assert metrics["update_norm"] == 0 and np.isfinite(metrics["param_norm"])


def test_norms_and_clipping_do_not_overflow_in_float16():
  grads = {"x": jnp.full(4, 300, jnp.float16), "y": jnp.float16(800)}
  np.testing.assert_allclose(norm(grads), 1000.0)
  optimizer = make_optimizer(AdamW(warmup_steps=0, epsilon=1e-3), 1)
  _, state = optimizer.update(grads, optimizer.init(grads), grads)
  (mu,) = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if ".mu" in jax.tree_util.keystr(path) and leaf.ndim
  ]
  # The first moment is a tenth of the clipped gradient.
  np.testing.assert_allclose(mu, 0.03, rtol=2e-3)


def test_norms_are_those_of_float64():
  rng = np.random.default_rng(0)
  parts = {"real": rng.normal(size=7), "complex": rng.normal(size=(2, 3)) * 1j}
  expected = np.sqrt(sum((abs(x) ** 2).sum() for x in parts.values()))
  low = {
    "real": parts["real"].astype(np.float32),
    "complex": parts["complex"].astype(np.complex64),
  }
  np.testing.assert_allclose(norm(low), expected, rtol=1e-6)
  assert zero_if_finite({**low, "count": np.int32(3)}) == 0
  for bad in (np.inf, -np.inf, np.nan):
    for dtype in (np.float16, np.float32, np.complex64):
      assert np.isnan(zero_if_finite({**low, "bad": jnp.full(2, bad, dtype)}))


def test_with_one_label_per_row_all_read_tokens_count():
  learner, state, batch = setup()
  batch["weights"][:] = 0
  batch["weights"][:, -1] = 1
  _, metrics = compiled(learner)(state, batch)
  assert metrics["tokens"] == batch["inputs"].size == 96
  assert metrics["targets"] == 8


def test_a_batch_without_weight_gives_zeros():
  learner, state, batch = setup()
  batch["weights"][:] = 0
  _, metrics = compiled(learner)(state, batch)
  assert metrics["loss"] == 0 and metrics["grad_norm"] == 0
  assert metrics["finite"]


def test_dropout_depends_on_the_step_and_the_seed_only():
  model = tiny.Model(dropout=0.5)
  learner, state, batch = setup(model=model)
  step = compiled(learner)
  first, again = (step(state, batch)[1]["loss"] for _ in range(2))
  assert first == again
  later = state.replace(step=state.step + 1)
  assert step(later, batch)[1]["loss"] != first
  evaluated = eval_step(learner, state.params, {}, batch)
  plain = eval_step(
    learner._replace(model=tiny.Model()), state.params, {}, batch
  )
  assert (
    learner.loss.means(evaluated)["loss"] == learner.loss.means(plain)["loss"]
  )


def test_bfloat16_computes_low_and_keeps_parameters_in_float32():
  learner, state, batch = setup(model=tiny.Model(dtype=jnp.bfloat16))
  exact, _, _ = setup()
  after, low = compiled(learner)(state, batch)
  _, high = compiled(exact)(state, batch)
  kinds = {leaf.dtype for leaf in jax.tree.leaves(after.params)}
  assert kinds == {jnp.dtype("float32")}
  assert low["loss"].dtype == jnp.float32
  assert low["loss"] != high["loss"]
  np.testing.assert_allclose(low["loss"], high["loss"], rtol=1e-2)


def test_a_trace_of_a_step_names_its_phases_layers_and_ops():
  model = LanguageModel(
    tiny.VOCAB, 8, 1, ("gated_deltanet",), {"gated_deltanet": {"heads": 1}}
  )
  learner, state, batch = setup(model=model)
  step = jax.jit(functools.partial(train_step, learner))
  text = step.lower(state, batch).as_text(debug_info=True)
  paths = set(re.findall(r'loc\("jit\(train_step\)/([^"]*)"', text))
  phases = {"gradient", "optimizer", "metrics", "select"}
  assert {path.split("/")[0] for path in paths} == phases
  for back in (False, True):
    own = [path for path in paths if ("transpose(" in path) == back]
    for part in ("loss", "/layer_0/mixer/delta_rule/", "/layer_0/mlp"):
      assert any(part in path for path in own), (back, part)


def test_clipping_bounds_what_the_optimizer_sees():
  learner, state, batch = setup(optimizer=AdamW(clip=1e-3, warmup_steps=0))
  after, metrics = compiled(learner)(state, batch)
  assert metrics["grad_norm"] > 0.1
  mu = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
    if ".mu" in jax.tree_util.keystr(path)
  ]
  norm = math.sqrt(sum(float(jnp.sum(m**2)) for m in mu))
  np.testing.assert_allclose(norm, 0.1 * 1e-3, rtol=1e-4)
