"""The signature is made of iterated integrals, and has their identities."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.signature import levels, product
from jaxmodels.testing import relative_error

RNG = np.random.default_rng(0)
LENGTH, WIDTH = 12, 2


def iterated_integral(dx, depth):
  """Level `depth` of a piecewise linear path, by its definition.

  Over the simplex `u_1 < ... < u_n`, pieces that are passed m times in a row
  count by the volume 1 / m! of a simplex.
  """
  total = np.zeros((WIDTH,) * depth)
  for pieces in itertools.combinations_with_replacement(range(len(dx)), depth):
    volume = math.prod(math.factorial(pieces.count(i)) for i in set(pieces))
    tensor = np.ones(())
    for piece in pieces:
      tensor = np.multiply.outer(tensor, dx[piece])
    total += tensor / volume
  return total


def padded(dx):
  return np.concatenate([dx, np.zeros((LENGTH - len(dx), WIDTH))])


def test_a_signature_has_the_identities_of_iterated_integrals():
  dx = RNG.normal(size=(5, WIDTH))
  # Each piece in two, at an uneven place: the same path at another speed.
  share = RNG.uniform(size=(5, 1))
  finer = np.stack([share * dx, (1 - share) * dx], 1).reshape(-1, WIDTH)
  closed = np.concatenate([dx, -dx.sum(0, keepdims=True)])
  rows = [dx, finer, dx[:2], dx[2:], -dx[::-1], closed]
  paths = np.stack([padded(row) for row in rows]).astype(np.float32)
  run = functools.partial(ops.signature, method="chunk_parallel", chunk_size=4)
  _, found = jax.jit(run)(paths)
  whole, other_speed, first, second, back, loop = found = np.asarray(found)

  one, two, three = levels(whole, WIDTH)
  for n, level in enumerate((one, two, three), 1):
    assert relative_error(level, iterated_integral(dx, n)) < 2e-5
  assert relative_error(other_speed, whole) < 2e-5
  # Chen's identity, and the inverse of a path.
  joined, nothing = jax.jit(jax.vmap(lambda a, b: product(a, b, WIDTH)))(
    np.stack([first, whole]), np.stack([second, back])
  )
  assert relative_error(joined, whole) < 2e-5
  assert np.abs(nothing).max() < 2e-5
  # The shuffle identities of levels 1 and 1, and of 1 and 2.
  shuffled = two + two.T
  assert relative_error(shuffled, np.multiply.outer(one, one)) < 2e-5
  shuffled = three + np.moveaxis(three, 0, 1) + np.moveaxis(three, 2, 0)
  assert relative_error(shuffled, np.multiply.outer(one, two)) < 2e-5
  # The area of the polygon, by the shoelace formula.
  x, y = np.cumsum(closed, 0).T
  area = 0.5 * (x[:-1] @ y[1:] - x[1:] @ y[:-1])
  level = levels(loop, WIDTH)[1]
  assert relative_error((level[0, 1] - level[1, 0]) / 2, area) < 2e-5


def test_a_wrong_depth_is_named():
  with pytest.raises(ValueError, match="depth must be an integer"):
    ops.signature(np.ones((3, 2), np.float32), depth=0)
