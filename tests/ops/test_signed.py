"""Linear attention with signs: decays near 0, and wrong signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.gates import negative_decay
from jaxmodels.ops import linear_attention, reference
from jaxmodels.testing import relative_error

SHAPE = (1, 40, 2, 4)


def drawn():
  """Log decays around log(1/2), where 2 a - 1 is as small as 1e-7."""
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, *SHAPE)).astype(np.float32)
  size = 10.0 ** rng.uniform(-7, -1, SHAPE[:3])
  g = -np.log(2) + rng.choice([-1, 1], SHAPE[:3]) * size
  g[:, ::3] = -rng.exponential(0.3, g[:, ::3].shape)
  return q, k, v, g.astype(np.float32)


def slopes(op, arguments, **options):
  def loss(q, k, v, g):
    decay, sign = negative_decay(g)
    y, _ = op(q, k, v, decay, decay_sign=sign, **options)
    return jnp.sum(jnp.sin(y))

  return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arguments)


def test_gradients_of_decays_near_zero():
  got = slopes(linear_attention, drawn(), method="chunked", chunk_size=16)
  with jax.enable_x64(True):
    exact = [np.asarray(x, np.float64) for x in drawn()]
    wanted = slopes(reference.linear_attention, exact)
    wanted = [np.asarray(x) for x in wanted]
  for a, b in zip(got, wanted, strict=True):
    assert relative_error(np.asarray(a), b) < 2e-5


def test_wrong_signs_are_named():
  q, k, v, g = drawn()
  with pytest.raises(ValueError, match="must have the shape of log_decay"):
    linear_attention(q, k, v, g, decay_sign=np.ones_like(k))
  with pytest.raises(ValueError, match="not supported with a bonus"):
    linear_attention(
      q, k, v, g, bonus=np.ones(SHAPE[2:]), decay_sign=np.ones_like(g)
    )
