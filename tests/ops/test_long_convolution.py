"""The long convolution equals the direct sum and the recurrence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing import relative_error


@functools.partial(jax.jit, static_argnums=0)
def results(op, x, kernel):
  y, pull_back = jax.vjp(op, x, kernel)
  cotangent = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
  return y, *pull_back(cotangent)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
  ("length", "width"),
  [
    (1, 1),
    pytest.param(21, 21, marks=pytest.mark.slow),
    (8, 5),
    pytest.param(9, 30, marks=pytest.mark.slow),
  ],
)
def test_is_the_direct_sum(length, width, reverse):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, length, 3)).astype(np.float32)
  kernel = rng.standard_normal((width, 3)).astype(np.float32)
  op = functools.partial(ops.long_convolution, reverse=reverse)
  definition = functools.partial(reference.long_convolution, reverse=reverse)
  got = results(op, jnp.asarray(x), jnp.asarray(kernel))
  with jax.enable_x64(True):
    wanted = results(
      definition, jnp.asarray(x, "float64"), jnp.asarray(kernel, "float64")
    )
  for one, truth in zip(got, wanted, strict=True):
    assert relative_error(one, truth) < 2e-5


def test_is_the_diagonal_recurrence():
  """With kernel_j = sum_n C_n a_n^j B_n, for complex a in the unit disc."""
  rng = np.random.default_rng(1)
  length, channels, states = 300, 2, 4
  shape = (channels, states)
  a = rng.uniform(0.9, 0.999, shape) * np.exp(1j * rng.uniform(0, 3, shape))
  B, C = (
    rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    for _ in range(2)
  )
  x = rng.standard_normal((2, length, channels))
  powers = a ** np.arange(length)[:, None, None]
  kernel = (C * powers * B).sum(-1).real
  y = jax.jit(ops.long_convolution)(
    x.astype(np.float32), kernel.astype(np.float32)
  )
  b = (B * x[..., None]).astype(np.complex64)
  h, _ = jax.jit(ops.diagonal_recurrence)(
    np.broadcast_to(a, b.shape).astype(np.complex64), b
  )
  assert relative_error(y, (C * np.asarray(h)).sum(-1).real) < 2e-5


def test_batch_axes_dtypes_and_no_tokens():
  rng = np.random.default_rng(2)
  x = rng.standard_normal((2, 3, 9, 4)).astype(np.float32)
  kernel = rng.standard_normal((9, 4)).astype(np.float32)
  op = jax.jit(ops.long_convolution)
  y = op(x, kernel)
  one = jax.jit(jax.vmap(ops.long_convolution, (0, None)))(x, kernel)
  assert relative_error(y, one) < 1e-6
  narrow = op(x.astype(jnp.bfloat16), kernel)
  assert narrow.dtype == jnp.bfloat16
  assert relative_error(narrow, y) < 2e-2
  assert op(x[:, :, :0], kernel).shape == (2, 3, 0, 4)


def test_wrong_arguments_are_named():
  x, kernel = jnp.zeros((2, 5, 3)), jnp.zeros((5, 3))
  with pytest.raises(ValueError, match="kernel must be"):
    ops.long_convolution(x, kernel[:, :2])
  with pytest.raises(ValueError, match="x must be real"):
    ops.long_convolution(x.astype(jnp.complex64), kernel)
