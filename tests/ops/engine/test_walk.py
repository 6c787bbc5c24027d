"""Walks through chunks: all ways give the same states and derivatives."""

import functools

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmodels.ops import delta_rule, linear_attention, normalized
from jaxmodels.ops.engine import walk
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.ops.engine.recurrence import Summary

BATCH, HEADS, WIDTH = 2, 3, 4


def normal(rng, *shape):
  return rng.normal(size=shape)


def of_matrices(rng, *lead):
  """Transitions that neither grow nor vanish, and updates."""
  return Summary(
    np.eye(WIDTH) + normal(rng, *lead, WIDTH, WIDTH) / 16,
    normal(rng, *lead, WIDTH, 5),
  )


def of_decays(rng, *lead):
  decays = rng.uniform(0.5, 1, (*lead, WIDTH))
  return Summary(decays, normal(rng, *lead, WIDTH, 5))


def of_maxima(rng, *lead):
  """Log decays, and updates with the largest exponent beside them."""
  update = normalized._State(normal(rng, *lead, WIDTH, 5), normal(rng, *lead))
  return Summary(-np.abs(normal(rng, *lead)), update)


CASES = {
  "matrices": (delta_rule.FAMILY, of_matrices),
  "decays": (linear_attention.FAMILY, of_decays),
  "maxima": (normalized._family(1.0), of_maxima),
}


def drawn(case, count):
  """A family, summaries of n chunks, and the state before them."""
  family, draw = CASES[case]
  rng = np.random.default_rng(count)
  summaries = draw(rng, count, BATCH, HEADS)
  return family, summaries, draw(rng, BATCH, HEADS).update


def on_gpu(*arguments):
  with trace_for("gpu"):
    return walk.walk(*arguments)


WAYS = (walk.in_order, walk.in_blocks, walk.associate, on_gpu)


def assert_close(found, expected):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12),
    found,
    expected,
  )


# 23 chunks: blocks of blocks, with a rest at both levels.
@pytest.mark.parametrize(
  "case, count", [*((case, 23) for case in CASES), ("matrices", 3)]
)
def test_all_walks_give_the_same_states(case, count):
  with jax.enable_x64(True):
    family, *inputs = drawn(case, count)
    every = jax.jit(lambda *inputs: [way(family, *inputs) for way in WAYS])
    expected, *found = every(*inputs)
    for states in found:
      assert_close(states, expected)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_walk_in_order(case):
  with jax.enable_x64(True):
    family, *inputs = drawn(case, 23)
    rng = np.random.default_rng(0)
    cotangents = jax.tree.map(
      lambda x: normal(rng, *x.shape),
      jax.eval_shape(functools.partial(walk.in_order, family), *inputs),
    )

    @jax.jit
    def gradients(*inputs):
      return [
        jax.vjp(functools.partial(way, family), *inputs)[1](cotangents)
        for way in (walk.in_order, on_gpu)
      ]

    expected, found = gradients(*inputs)
    assert_close(found, expected)


def test_second_derivatives_of_the_linear_tangent():
  with jax.enable_x64(True):
    family, *inputs = drawn("matrices", 6)
    check_grads(
      jax.jit(functools.partial(on_gpu, family)), inputs, order=2, eps=1e-4
    )
