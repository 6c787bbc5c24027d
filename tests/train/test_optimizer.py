"""What each optimizer computes, against optax or its equation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from tests.train import tiny
from tests.train.config.test_schedules import written_by_hand
from train.config import (
  SGD,
  STATE_SPACE,
  Adafactor,
  AdamW,
  Constant,
  Group,
  Lion,
  Muon,
  ScheduleFreeAdamW,
)
from train.data import Batches
from train.norm import norm
from train.optimizer import (
  add_noise,
  average_params,
  averaging_state,
  evaluation_params,
  make_optimizer,
)
from train.setup import make_learner
from train.state import init_state
from train.step import train_step

RATE, STEPS = 0.01, 5
# What the aliases of optax have: one rate, no clipping, no decay.
PLAIN = {
  "learning_rate": RATE,
  "warmup_steps": 0,
  "schedule": Constant(),
  "clip": None,
  "weight_decay": 0.0,
}


def params_and_gradients(seed=0, layers=2):
  """Parameters with matrices and vectors, and one gradient per step."""
  rng = np.random.default_rng(seed)
  shapes = {
    f"layer_{i}": {"kernel": (6, 4), "bias": (4,)} for i in range(layers)
  }
  shapes["table"] = (5, 4)

  def draw(shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  is_shape = functools.partial(jax.tree.map, is_leaf=lambda x: type(x) is tuple)
  params = is_shape(draw, shapes)
  return params, [is_shape(draw, shapes) for _ in range(STEPS)]


def updated(transformation, params, gradients):
  """The parameters after every step, and the last state."""
  state = jax.jit(transformation.init)(params)

  @jax.jit
  def step(gradient, state, params):
    updates, state = transformation.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  found = []
  for gradient in gradients:
    params, state = step(gradient, state, params)
    found.append(params)
  return found, state


def own(optimizer, params, gradients):
  return updated(make_optimizer(optimizer, STEPS), params, gradients)


def assert_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def assert_close(a, b, rtol=1e-6, atol=1e-7):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol, atol)


def clip_as_before(largest):
  """The clipping by norm, as it was written when AdamW was the only one."""

  def update(updates, state, params=None):
    del params
    size = norm(updates)

    def clip(x):
      clipped = (x.astype(jnp.float32) / size) * largest
      return jnp.where(size < largest, x, clipped.astype(x.dtype))

    return jax.tree.map(clip, updates), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def test_the_default_is_the_old_optimizer_bit_for_bit():
  params, gradients = params_and_gradients()
  mask = jax.tree_util.tree_map_with_path(
    lambda path, x: x.ndim >= 2 and path[-1].key == "kernel", params
  )
  old = optax.chain(
    clip_as_before(1.0),
    optax.adamw(
      written_by_hand(1e-3, 3, STEPS, 0.1),
      b1=0.9,
      b2=0.95,
      eps=1e-8,
      weight_decay=0.1,
      mask=mask,
    ),
  )
  with jax.numpy_dtype_promotion("standard"):
    wanted, _ = updated(old, params, gradients)
  found, _ = own(AdamW(warmup_steps=3), params, gradients)
  assert_equal(found, wanted)
  assert norm(jax.tree.map(jnp.subtract, wanted[0], params)) > 0


ALIASES = {
  "lion": (Lion(**PLAIN), optax.lion(RATE, 0.9, 0.99, weight_decay=0.0)),
  "sgd": (SGD(**PLAIN), optax.sgd(RATE, 0.9)),
  "plain sgd": (SGD(**PLAIN, momentum=0.0), optax.sgd(RATE)),
  "nesterov": (SGD(**PLAIN, nesterov=True), optax.sgd(RATE, 0.9, True)),
  "adafactor": (Adafactor(**PLAIN), optax.adafactor(RATE)),
  "adafactor by rows": (
    Adafactor(**PLAIN, min_factored=4),
    optax.adafactor(RATE, min_dim_size_to_factor=4),
  ),
  "adafactor with momentum": (
    Adafactor(**PLAIN, momentum=0.9),
    optax.adafactor(RATE, momentum=0.9),
  ),
  "schedule-free": (
    ScheduleFreeAdamW(**PLAIN),
    contrib.schedule_free_adamw(RATE, b2=0.95),
  ),
}


@pytest.mark.parametrize("name", ALIASES)
def test_an_optimizer_is_that_of_optax(name):
  optimizer, alias = ALIASES[name]
  params, gradients = params_and_gradients()
  with jax.numpy_dtype_promotion("standard"):
    wanted, _ = updated(alias, params, gradients)
  found, _ = own(optimizer, params, gradients)
  assert_close(found, wanted)


def test_muon_is_that_of_optax_for_matrices_and_adamw_for_the_rest():
  params, gradients = params_and_gradients()
  found, _ = own(Muon(**PLAIN), params, gradients)
  adam, _ = own(AdamW(**PLAIN), params, gradients)

  def matrix(tree):
    return {"kernel": tree["layer_0"]["kernel"]}

  muon = contrib.muon(RATE, consistent_rms=0.2)
  with jax.numpy_dtype_promotion("standard"):
    wanted, _ = updated(muon, matrix(params), [*map(matrix, gradients)])
  assert_close([*map(matrix, found)], wanted, rtol=1e-5, atol=1e-6)
  for name in ("layer_0", "layer_1"):
    assert_equal(found[-1][name]["bias"], adam[-1][name]["bias"])
  assert_equal(found[-1]["table"], adam[-1]["table"])


def test_a_step_of_muon_is_about_orthogonal_and_of_the_size_of_adam():
  params, gradients = params_and_gradients()
  (after, *_), _ = own(Muon(**PLAIN), params, gradients)
  old, new = (tree["layer_0"]["kernel"] for tree in (params, after))
  step = np.asarray(new - old) / RATE
  sizes = np.linalg.svd(step, compute_uv=False) / (0.2 * np.sqrt(6))
  assert ((sizes > 0.6) & (sizes < 1.3)).all()
  # Adam's first step is 1 per parameter; later ones are about 0.2.
  bias = np.asarray(after["layer_0"]["bias"] - params["layer_0"]["bias"])
  np.testing.assert_allclose(np.abs(bias) / RATE, 1.0, rtol=1e-3)


@pytest.mark.parametrize(
  "optimizer",
  [
    AdamW(),
    Lion(),
    Adafactor(min_factored=4, momentum=0.9),
    Muon(groups=(Group(("*/kernel",), min_rank=2, rate=0.5),)),
    SGD(),
    ScheduleFreeAdamW(),
  ],
  ids=lambda optimizer: type(optimizer).__name__,
)
def test_layers_under_a_scan_get_the_updates_of_separate_layers(optimizer):
  optimizer = dataclasses.replace(optimizer, learning_rate=RATE, warmup_steps=0)
  params, gradients = params_and_gradients()

  def stacked(tree):
    layers = [tree["layer_0"], tree["layer_1"]]
    rest = {"table": tree["table"]}
    return {"repeats": jax.tree.map(lambda *x: jnp.stack(x), *layers), **rest}

  apart, _ = own(optimizer, params, gradients)
  together, _ = own(optimizer, stacked(params), [*map(stacked, gradients)])
  assert_close(together, [*map(stacked, apart)], rtol=1e-5, atol=1e-6)


def test_a_group_has_its_own_rate_and_decay():
  params, gradients = params_and_gradients()
  zeros = [jax.tree.map(jnp.zeros_like, gradients[0])]
  half = Group(("*/layer_1/*",), rate=0.5)
  still = Group(("*/layer_0/kernel",), decay=False)
  sgd = SGD(**{**PLAIN, "weight_decay": 0.5}, groups=(half, still))
  (after,), _ = own(sgd, params, zeros)
  kernels = [params[f"layer_{i}"]["kernel"] for i in (0, 1)]
  np.testing.assert_array_equal(after["layer_0"]["kernel"], kernels[0])
  wanted = kernels[1] * (1 - RATE * 0.5 * 0.5)
  np.testing.assert_allclose(after["layer_1"]["kernel"], wanted, rtol=1e-6)
  np.testing.assert_array_equal(after["table"], params["table"])
  (after,), _ = own(sgd, params, gradients[:1])
  for name, factor in (("layer_0", 1.0), ("layer_1", 0.5)):
    step = after[name]["bias"] - params[name]["bias"]
    wanted = -RATE * factor * gradients[0][name]["bias"]
    np.testing.assert_allclose(step, wanted, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_average_is_that_of_its_equation(dtype):
  params, gradients = params_and_gradients()
  params, *gradients = jax.tree.map(
    lambda x: x.astype(dtype), [params, *gradients]
  )
  found, state = own(AdamW(learning_rate=RATE, ema=0.3), params, gradients)
  plain, _ = own(AdamW(learning_rate=RATE), params, gradients)
  assert_equal(found, plain)
  average = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  for n, new in enumerate(found, 1):
    decay = min(0.3, (1 + n) / (10 + n))
    average = jax.tree.map(
      lambda a, x, d=decay: d * a + (1 - d) * np.asarray(x, np.float64),
      average,
      new,
    )
  assert {x.dtype for x in jax.tree.leaves(state.average)} == {
    jnp.dtype("float32")
  }
  # Inside one program XLA may add to the average what it did not round yet to
  # bfloat16, whose numbers are 2^-8 apart.
  rtol = 1e-5 if dtype == jnp.float32 else 2**-8
  assert_close(state.average, average, rtol=rtol, atol=1e-6)
  evaluated = evaluation_params(state, found[-1])
  assert {x.dtype for x in jax.tree.leaves(evaluated)} == {jnp.dtype(dtype)}


def test_schedule_free_evaluates_the_average_of_its_iterates():
  params, gradients = params_and_gradients()
  optimizer = ScheduleFreeAdamW(**PLAIN)
  found, state = own(optimizer, params, gradients)
  # With one rate the average is that of all iterates z, by its equation.
  rms = optax.scale_by_rms(
    0.95, eps=1e-8, eps_in_sqrt=False, bias_correction=True
  )
  with jax.numpy_dtype_promotion("standard"):
    z, inner, iterates = params, rms.init(params), []
    for gradient in gradients:
      step, inner = rms.update(gradient, inner)
      z = jax.tree.map(lambda a, u: a - RATE * u, z, step)
      iterates.append(z)
  average = jax.tree.map(lambda *x: sum(x) / len(x), *iterates)
  assert_close(evaluation_params(state, found[-1]), average, rtol=1e-4)


def test_what_has_no_average_evaluates_its_own_parameters():
  params, gradients = params_and_gradients()
  for optimizer in (AdamW(), Muon(), Adafactor(), SGD(), Lion()):
    found, state = own(optimizer, params, gradients[:1])
    assert averaging_state(state) is None
    assert evaluation_params(state, found[0]) is found[0]
  # The state of a user's own transformation is searched too.
  mine = optax.chain(optax.clip(1.0), average_params(optax.sgd(RATE), 0.9))
  state = mine.init(params)
  assert_equal(evaluation_params(state, gradients[0]), params)


def test_noise_is_that_of_optax_and_its_key_is_plain_numbers():
  params = {"x": jnp.zeros((100, 100))}
  noise, wanted = add_noise(4.0, 3), optax.add_noise(4.0, 0.55, 3)
  state, other = noise.init(params), wanted.init(params)
  with jax.numpy_dtype_promotion("standard"):
    for t in (1, 2, 3):
      found, state = noise.update(params, state)
      theirs, other = wanted.update(params, other)
      np.testing.assert_array_equal(found["x"], theirs["x"])
      deviation = np.sqrt(4.0 / t**0.55)
      np.testing.assert_allclose(np.std(found["x"]), deviation, rtol=0.03)
  assert state.rng_key.dtype == jnp.uint32


def setup(optimizer):
  config = dataclasses.replace(tiny.get_config(), optimizer=optimizer)
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, config.seed, 12)
  batch = next(Batches(config.data.open("train"), 8, seed=0))
  return learner, state, batch


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_sharpness_aware_step_takes_the_gradient_uphill(accumulation):
  radius, rate = 0.05, {**PLAIN, "momentum": 0.0, "learning_rate": 1.0}
  learner, state, batch = setup(SGD(**rate))
  learner = learner._replace(accumulation=accumulation)
  plain, metrics = jax.jit(functools.partial(train_step, learner))(state, batch)
  gradient = jax.tree.map(jnp.subtract, state.params, plain.params)
  step = radius / metrics["grad_norm"]
  above = jax.tree.map(lambda p, g: p + step * g, state.params, gradient)
  high, _ = jax.jit(functools.partial(train_step, learner))(
    state.replace(params=above), batch
  )
  wanted = jax.tree.map(jnp.subtract, above, high.params)
  learner, state, _ = setup(SGD(**rate, sam_radius=radius))
  learner = learner._replace(accumulation=accumulation)
  after, own = jax.jit(functools.partial(train_step, learner))(state, batch)
  found = jax.tree.map(jnp.subtract, state.params, after.params)
  assert_close(found, wanted, rtol=1e-3, atol=1e-6)
  distance = norm(jax.tree.map(jnp.subtract, found, gradient))
  assert distance > 1e-3 * metrics["grad_norm"]
  assert own["grad_norm"] == metrics["grad_norm"]


def test_a_sharpness_aware_step_of_no_gradient_is_finite():
  learner, state, batch = setup(SGD(**PLAIN, sam_radius=0.1))
  batch["weights"][:] = 0
  after, metrics = jax.jit(functools.partial(train_step, learner))(state, batch)
  assert metrics["finite"]
  assert_equal(after.params, state.params)


def test_state_space_parameters_move_at_a_quarter_of_the_rate():
  params = {"mixer": {"A_log": jnp.ones(3), "D": jnp.ones(3)}}
  ones = [jax.tree.map(jnp.ones_like, params)]
  sgd = SGD(**PLAIN, groups=(STATE_SPACE,))
  (after,), _ = own(sgd, params, ones)
  np.testing.assert_allclose(after["mixer"]["A_log"], 1 - RATE / 4, rtol=1e-6)
  np.testing.assert_allclose(after["mixer"]["D"], 1 - RATE, rtol=1e-6)


def test_an_optimizer_without_a_rate_trains_and_reports_none():
  @dataclasses.dataclass(frozen=True)
  class Mine:
    def transformation(self, steps):
      return optax.adam(1.0 / steps)

  learner, state, batch = setup(Mine())
  step = jax.jit(functools.partial(train_step, learner))
  state, first = step(state, batch)
  _, second = step(state, batch)
  assert second["loss"] < first["loss"] and "learning_rate" not in first
