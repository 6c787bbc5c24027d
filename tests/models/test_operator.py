"""An operator does not depend on how finely its functions are sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import Operator


def function(points):
  """Of low frequency, and its places."""
  at = np.arange(points) / points
  value = np.cos(2 * np.pi * at) + 0.5 * np.sin(4 * np.pi * at)
  return np.stack([value, at], -1).astype(np.float32)[None]


def test_a_finer_grid_gives_the_same_function():
  """At the common points; also in another order of the points.

  The mean over the points of a periodic function converges exponentially.
  """
  model = Operator(width=64, depth=2, outputs=2, harmonics=2)
  coarse, fine = function(64), function(128)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda p: rng.normal(size=p.shape).astype(np.float32) / p.shape[0] ** 0.5,
    jax.eval_shape(model.init, jax.random.key(0), coarse),
  )
  run = jax.jit(lambda x: model.apply(variables, x)[0])
  few, many = run(coarse), run(fine)
  assert few.shape == (1, 64, 2) and float(jnp.std(few)) > 0.1
  np.testing.assert_allclose(many[:, ::2], few, atol=2e-5)
  order = rng.permutation(64)
  np.testing.assert_allclose(run(coarse[:, order]), few[:, order], atol=2e-5)


def test_a_wrong_x_is_named():
  model = Operator(width=16, depth=1, coordinates=2)
  with pytest.raises(ValueError, match=r"x must be \[B, L, C \+ P\]"):
    jax.eval_shape(model.init, jax.random.key(0), function(4))
