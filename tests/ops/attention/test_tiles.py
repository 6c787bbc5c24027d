"""Attention in tiles of scores: their edges, what is left, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops import attention
from jaxmodels.ops.attention.tiles import (
  Keys,
  Queries,
  Scoring,
  attend_in_tiles,
)
from jaxmodels.ops.reference import local

PAST, LENGTH, HEADS, GROUPS, KEY, VALUE = 4, 11, 4, 2, 3, 5
IDS = np.array([0] * 2 + [1] * 5 + [4] * 4)


def draw(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.normal(size=shape).astype(np.float32)


Q = draw(LENGTH, HEADS, KEY)
K, V = draw(LENGTH, GROUPS, KEY), draw(LENGTH, GROUPS, VALUE)
OLD_K, OLD_V = draw(PAST, GROUPS, KEY), draw(PAST, GROUPS, VALUE)


@pytest.mark.parametrize(
  "window", [None, pytest.param(6, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("ids", [None, IDS], ids=["joined", "packed"])
def test_tiles_of_any_size_are_the_definition(window, ids):
  """Most sizes divide neither 11 queries nor 15 keys.

  Tiles end before, at and behind the last key that a chunk sees.
  """
  wanted, *_ = jax.jit(
    lambda *arrays: local.attention(*arrays[:3], window, *arrays[3:], ids)
  )(Q, K, V, OLD_K, OLD_V)
  key_ids = None if ids is None else np.append(np.zeros(PAST, int), ids)
  keys = np.concatenate([OLD_K, K]), np.concatenate([OLD_V, V])
  queries = Queries(Q, PAST + np.arange(LENGTH), ids)
  attend = jax.jit(attend_in_tiles, static_argnums=(2, 3))
  for size in [(3, 2), (4, 4), (2, 7), (5, 3), (1, 4), (11, 4), (4, 15)]:
    got = attend(queries, Keys(*keys, key_ids), Scoring(window), size)
    np.testing.assert_allclose(got, wanted, 0, 2e-6, err_msg=str(size))


@pytest.mark.parametrize(
  ("window", "poisoned", "spoilt"),
  [
    (None, slice(8, 12), [8, 9, 10, 11]),
    (None, slice(7, 8), [4, 5, 6, 7, 8, 9, 10, 11]),
    (5, slice(0, 4), [0, 1, 2, 3, 4, 5, 6, 7]),
    (6, slice(0, 4), list(range(12))),
  ],
)
def test_tiles_that_no_query_sees_are_not_touched(window, poisoned, spoilt):
  """What is masked only turns NaN as well, all over its tile."""
  x = jnp.ones((12, 1, 1))
  v = x.at[poisoned].set(jnp.nan)
  queries = Queries(x, jnp.arange(12), None)
  y = attend_in_tiles(queries, Keys(x, v, None), Scoring(window), (4, 4))
  assert np.flatnonzero(np.isnan(y)).tolist() == spoilt


def attend(q, k, v, method="chunked"):
  return attention(q, k, v, segment_ids=IDS[:7], method=method, chunk_size=3)[0]


def test_forward_and_second_derivatives_are_those_of_all_scores_at_once():
  arguments = Q[:7], K[:7], V[:7]
  directions = draw(7, HEADS, KEY + 1)[..., :KEY], K[4:], V[4:]

  def derivatives(method):
    def loss(*arguments):
      return jnp.sum(jnp.sin(attend(*arguments, method=method)))

    return jax.jit(
      lambda: jax.jvp(jax.grad(loss, (0, 1, 2)), arguments, directions)
    )()

  got, wanted = derivatives("chunked"), derivatives("quadratic")
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, 0, 2e-6 * np.abs(b).max())


def test_what_is_mapped_over_is_as_one_by_one():
  arguments = [np.stack([x[:7], x[4:]]) for x in (Q, K, V)]
  got = jax.jit(jax.vmap(attend))(*arguments)
  alone = jax.jit(attend)
  for i in range(2):
    one = alone(*(x[i] for x in arguments))
    np.testing.assert_allclose(got[i], one, 0, 2e-6)


@functools.cache
def programs():
  """The gradient's, at two lengths."""
  shapes = [
    jax.ShapeDtypeStruct((1, n, 1, 8), jnp.float32) for n in (512, 1024)
  ]

  def loss(q, k, v):
    return jnp.sum(attention(q, k, v, method="chunked", chunk_size=64)[0])

  gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
  return [gradient.lower(x, x, x) for x in shapes]


def test_the_program_does_not_grow_with_the_length():
  short, long = (len(x.as_text().splitlines()) for x in programs())
  assert short == long


def test_memory_is_linear_in_the_length():
  short, long = (
    x.compile().memory_analysis().temp_size_in_bytes for x in programs()
  )
  assert long < 2.1 * short
