"""The Mesa layer is ridge regression over the past, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import OPS, Sizes

LENGTH = 21


def drawn():
  given = OPS["mesa"].arguments(LENGTH, sizes=Sizes(decay=0.1))
  del given["initial_state"]
  return {key: jnp.asarray(x, jnp.float32) for key, x in given.items()}


def test_enough_steps_are_the_regularised_least_squares_of_the_past():
  given = drawn()
  y, _ = jax.jit(ops.mesa)(**given)
  q, k, v, beta, decay = (
    np.asarray(given[name], float)
    for name in ("q", "k", "v", "beta", "log_decay")
  )
  for t in (0, 5, LENGTH - 1):
    past = np.exp([decay[0, s + 1 : t + 1, 0].sum() for s in range(t + 1)])
    root = np.sqrt(past * beta[0, : t + 1, 0])[:, None]
    # Rows of the ridge are samples with the value 0.
    keys = np.concatenate([root * k[0, : t + 1, 0], np.eye(8)])
    values = np.concatenate([root * v[0, : t + 1, 0], np.zeros((8, 6))])
    least = np.linalg.lstsq(keys, values, rcond=None)[0]
    assert relative_error(y[0, t, 0], q[0, t, 0] @ least) < 2e-5


def test_each_step_comes_closer_to_the_direct_solve():
  given = drawn()
  wanted, _ = reference.mesa(**given)
  errors = [
    relative_error(
      jax.jit(functools.partial(ops.mesa, steps=steps))(**given)[0], wanted
    )
    for steps in (1, 3, 8)
  ]
  assert errors[0] > 10 * errors[1] > 100 * errors[2]
  assert errors[2] < 2e-5  # K steps.


def test_the_gradient_is_that_of_the_solution():
  """The gradient of too few steps is not: it is a second solve's, as short."""
  given = drawn()

  def slopes(op):
    return jax.jit(jax.grad(lambda g: jnp.sum(jnp.sin(op(**g)[0]))))(given)

  wanted = slopes(reference.mesa)
  for name, slope in slopes(ops.mesa).items():
    assert relative_error(slope, wanted[name]) < 2e-5
  short = slopes(functools.partial(ops.mesa, steps=1))
  assert relative_error(short["k"], wanted["k"]) > 1e-2


def test_a_regularisation_per_channel_divides_queries_and_keys():
  given = drawn()
  ridge = np.random.default_rng(1).uniform(0.3, 3, 8).astype(np.float32)
  root = np.sqrt(ridge)[None, None, None]
  scaled = given | {"q": given["q"] / root, "k": given["k"] / root}
  y, _ = jax.jit(ops.mesa)(**scaled)
  k, v, beta = (np.asarray(given[name], float) for name in ("k", "v", "beta"))
  decay = np.exp(np.asarray(given["log_decay"], float))
  H, G = np.zeros((8, 8)), np.zeros((8, 6))
  for t in range(LENGTH):
    key = k[1, t, 1]
    H = decay[1, t, 1] * H + beta[1, t, 1] * np.outer(key, key)
    G = decay[1, t, 1] * G + beta[1, t, 1] * np.outer(key, v[1, t, 1])
  x = np.linalg.solve(H + np.diag(ridge), given["q"][1, -1, 1])
  assert relative_error(y[1, -1, 1], G.T @ x) < 2e-5


def test_a_cut_sequence_and_no_batch_axis():
  given = drawn()
  run = jax.jit(ops.mesa)
  wanted, last = run(**given)
  one = {name: x[1] for name, x in given.items()}
  y, state = run(**{name: x[:13] for name, x in one.items()})
  rest = {name: x[13:] for name, x in one.items()}
  later, final = run(**rest, initial_state=state)
  assert relative_error(jnp.concatenate([y, later]), wanted[1]) < 2e-5
  assert relative_error(final.H, last.H[1]) < 2e-5
  assert relative_error(final.G, last.G[1]) < 2e-5


def test_wrong_arguments_are_named():
  given = drawn()
  with pytest.raises(ValueError, match="steps must be an integer of at least"):
    ops.mesa(**given, steps=0)
  with pytest.raises(ValueError, match=r"must be Mesa\(H, G\)"):
    ops.mesa(**given, initial_state=given["v"])
