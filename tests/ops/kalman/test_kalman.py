"""The Kalman scans equal the textbook's filter, and dense GP regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels import ops
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.ops.reference import kalman
from jaxmodels.testing import relative_error

LENGTH = 9
METHODS = ["associative", "chunk_parallel", "recurrent"]
# Those of which the first is slow to compile.
EACH = [pytest.param("associative", marks=pytest.mark.slow), *METHODS[1:]]
OPS = {
  "filter": (ops.kalman_filter, kalman.kalman_filter),
  "smoother": (ops.kalman_smoother, kalman.kalman_smoother),
}


def drawn(dtype, varying=True, length=LENGTH):
  """A model of 3 states seen as 2 numbers."""
  rng = np.random.default_rng(0)
  lead = (length,) if varying else ()

  def positive(n):
    root = rng.standard_normal((*lead, n, n))
    return root @ np.swapaxes(root, -1, -2) / n + 0.1 * np.eye(n)

  arguments = {
    "y": rng.standard_normal((length, 2)),
    "F": 0.5 * rng.standard_normal((*lead, 3, 3)),
    "Q": positive(3),
    "H": rng.standard_normal((*lead, 2, 3)),
    "R": positive(2),
    "mean": rng.standard_normal(3),
    "covariance": np.eye(3),
  }
  return {k: jnp.asarray(x, dtype) for k, x in arguments.items()}


def results(op, arguments):
  outputs, pull_back = jax.vjp(lambda a: op(**a), arguments)
  cotangents = jax.tree.map(
    lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape).astype(x.dtype),
    outputs,
  )
  (gradients,) = pull_back(cotangents)
  for name in ("Q", "R", "covariance"):  # Defined on symmetric matrices only.
    gradients[name] = gradients[name] + gradients[name].mT
  return outputs, gradients


@pytest.mark.parametrize(
  ("name", "varying"),
  [("filter", False), pytest.param("smoother", True, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("method", EACH)
def test_is_the_definition(name, method, varying):
  """Values and gradients, with observations missing at both ends."""
  observed = np.ones(LENGTH, bool)
  observed[[0, 4, 5, LENGTH - 1]] = False
  op, definition = OPS[name]
  with jax.enable_x64(True):
    arguments = drawn("float64", varying)
    arguments["y"] = arguments["y"].at[4].set(1e3)  # Not looked at.
    tried = functools.partial(op, observed=jnp.asarray(observed), method=method)
    got = jax.jit(functools.partial(results, tried))(arguments)
    definition = functools.partial(definition, observed=observed)
    wanted = jax.jit(functools.partial(results, definition))(arguments)
  got, wanted = (jax.tree_util.tree_leaves(x) for x in (got, wanted))
  for one, truth in zip(got, wanted, strict=True):
    assert relative_error(one, truth) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("method", EACH)
def test_calls_no_lapack(method):
  """Two batches of its calls at once have waited for one another forever."""
  smoother = functools.partial(ops.kalman_smoother, method=method)
  jitted = jax.jit(functools.partial(results, smoother))
  compiled = jitted.lower(drawn("float32", length=4)).compile()
  assert "custom_call_target" not in compiled.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_float32(method, name="smoother"):
  op, definition = OPS[name]
  got = jax.jit(functools.partial(op, method=method))(**drawn("float32"))
  with jax.enable_x64(True):
    exact = {k: np.float64(x) for k, x in drawn("float32").items()}
    wanted = jax.jit(definition)(**exact)
  got, wanted = (jax.tree_util.tree_leaves(x) for x in (got, wanted))
  for one, truth in zip(got, wanted, strict=True):
    assert one.dtype == jnp.float32
    assert relative_error(one, truth) < 2e-5


@pytest.mark.parametrize("method", EACH)
def test_is_dense_gaussian_process_regression(method):
  """Matérn 3/2 at uneven times, some of them not observed."""
  rng = np.random.default_rng(1)
  length, rate, variance, noise = 60, 1.3, 0.8, 0.05
  gap = rng.exponential(0.4, length)
  time = np.cumsum(gap)
  y = np.sin(time) + noise**0.5 * rng.standard_normal(length)
  seen = rng.uniform(size=length) < 0.8

  apart = rate * np.abs(time[:, None] - time)
  kernel = variance * (1 + apart) * np.exp(-apart)
  noisy = kernel[np.ix_(seen, seen)] + noise * np.eye(seen.sum())
  gain = kernel[:, seen] @ np.linalg.inv(noisy)
  mean, covariance = gain @ y[seen], kernel - gain @ kernel[seen]
  log_likelihood = -0.5 * (
    y[seen] @ np.linalg.solve(noisy, y[seen])
    + np.linalg.slogdet(2 * np.pi * noisy)[1]
  )

  step = gap[:, None, None] * np.array([[rate, 1], [-(rate**2), -rate]])
  F = np.exp(-rate * gap)[:, None, None] * (np.eye(2) + step)
  prior = variance * np.diag([1, rate**2])  # Stationary.
  Q = prior - F @ prior @ np.swapaxes(F, 1, 2)
  with jax.enable_x64(True):
    model = map(
      jnp.asarray,
      (y[:, None], F, Q, np.eye(1, 2), noise * np.eye(1), np.zeros(2), prior),
    )
    smoother = functools.partial(ops.kalman_smoother, method=method)
    smoothed, found = jax.jit(smoother)(*model, observed=jnp.asarray(seen))
  assert relative_error(smoothed.mean[:, 0], mean) < 1e-6
  assert (
    relative_error(smoothed.covariance[:, 0, 0], np.diag(covariance)) < 1e-6
  )
  assert abs(float(found) - log_likelihood) < 1e-6 * abs(log_likelihood)


@pytest.mark.slow
def test_vmap():
  arguments = drawn("float32", varying=False)
  stack = {k: jnp.stack([x, x]) for k, x in arguments.items()}
  many, _ = jax.vmap(lambda a: ops.kalman_smoother(**a))(stack)
  one, _ = ops.kalman_smoother(**arguments)
  assert relative_error(many.mean[1], one.mean) < 1e-6


@pytest.mark.parametrize("method", EACH)
def test_one_token(method):
  arguments = drawn("float32", varying=False, length=1)
  (filtered, _), (smoothed, _) = (
    jax.jit(functools.partial(op, method=method))(**arguments)
    for op in (ops.kalman_filter, ops.kalman_smoother)
  )
  assert relative_error(smoothed.mean, filtered.mean) < 1e-6


@pytest.mark.parametrize(
  ("platform", "method"),
  [("cpu", "recurrent"), ("gpu", "chunk_parallel"), ("tpu", "chunk_parallel")],
)
def test_auto(platform, method):
  with trace_for(platform):
    auto, named = (
      str(jax.make_jaxpr(functools.partial(results, op))(drawn("float32")))
      for op in (
        ops.kalman_filter,
        functools.partial(ops.kalman_filter, method=method),
      )
    )
  assert auto == named


def test_wrong_arguments_are_named():
  arguments = drawn("float32")
  for name, wrong in [
    ("y", arguments["y"][0]),
    ("F", arguments["F"][:-1]),
    ("H", arguments["H"][..., :2]),
    ("covariance", arguments["mean"]),
    ("observed", jnp.ones(LENGTH)),
    ("method", "chunked"),
  ]:
    with pytest.raises(ValueError, match=f"{name} must be"):
      ops.kalman_filter(**{**arguments, name: wrong})


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
  "devices",
  [4, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (2, 8))],
)
@pytest.mark.parametrize("method", METHODS)
def test_sharded_is_whole(name, devices, method):
  """Values and gradients, with nothing observed around a cut."""
  length = 16
  observed = np.ones(length, bool)
  observed[[0, 7, 8, length - 1]] = False
  whole = functools.partial(OPS[name][0], method=method)
  mesh = jax.make_mesh((devices,), ("s",), axis_types=(AxisType.Auto,))

  def sharded(observed, **arguments):
    once = PartitionSpec()  # The distribution of x_0 is no sequence.
    specs = dict.fromkeys(arguments, PartitionSpec("s"))
    specs |= {"mean": once, "covariance": once}
    return jax.shard_map(
      lambda seen, given: whole(**given, observed=seen, axis_name="s"),
      mesh=mesh,
      in_specs=(PartitionSpec("s"), specs),
      out_specs=(PartitionSpec("s"), once),
    )(observed, arguments)

  with jax.enable_x64(True):
    got, wanted = (
      jax.jit(functools.partial(results, functools.partial(op, observed=seen)))(
        drawn("float64", length=length)
      )
      for op in (sharded, whole)
      for seen in [jnp.asarray(observed)]
    )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(a, b) < 1e-10
