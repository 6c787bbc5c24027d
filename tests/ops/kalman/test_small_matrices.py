"""Small matrices side by side equal NumPy's, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.kalman import small_matrices
from jaxmodels.testing import relative_error


def drawn(*shape):
  return np.random.default_rng(0).standard_normal(shape)


def positive(size, *lanes):
  root = drawn(size, size, *lanes)
  return np.einsum("ik...,jk...->ij...", root, root) + np.eye(size).reshape(
    size, size, *[1] * len(lanes)
  )


def to_last(x):
  """[N, M, ...] to [..., N, M], as NumPy wants them."""
  return np.moveaxis(np.asarray(x), (0, 1), (-2, -1))


@pytest.mark.parametrize("columns", [3, 12])  # Written out, and not.
@pytest.mark.parametrize("lanes", [(), (5,)])
def test_products(columns, lanes):
  a, b = drawn(4, columns, *lanes), drawn(columns, 2, *lanes)
  wanted = to_last(a) @ to_last(b)
  with jax.enable_x64(True):

    @jax.jit
    def derived(a, b):
      got, pulled = jax.vjp(small_matrices.matmul, a, b)
      return got, *pulled(jnp.cos(got))

    got, da, db = derived(a, b)
  assert relative_error(to_last(got), wanted) < 1e-14
  turned = np.cos(wanted) @ np.swapaxes(to_last(b), -1, -2)
  assert relative_error(to_last(da), turned) < 1e-13
  turned = np.swapaxes(to_last(a), -1, -2) @ np.cos(wanted)
  assert relative_error(to_last(db), turned) < 1e-13


@pytest.mark.parametrize("lanes", [(), (5,)])
def test_systems(lanes):
  """Those without symmetry begin with a pivot of zero."""
  general, x = drawn(4, 4, *lanes), drawn(4, 2, *lanes)
  general[0, 0] = 0
  with jax.enable_x64(True):
    got = jax.jit(small_matrices.solve)(general, x)
    definite = positive(4, *lanes)
    other = jax.jit(small_matrices.solve_positive)(definite, x)
    logarithm = jax.jit(small_matrices.log_determinant)(definite)
  wanted = np.linalg.solve(to_last(general), to_last(x))
  assert relative_error(to_last(got), wanted) < 1e-12
  wanted = np.linalg.solve(to_last(definite), to_last(x))
  assert relative_error(to_last(other), wanted) < 1e-12
  wanted = np.linalg.slogdet(to_last(definite))[1]
  assert relative_error(logarithm, wanted) < 1e-12


def test_first_and_second_derivatives():
  """Backwards, and forwards through that, against JAX's own."""

  def ours(root, x):
    matrix = root @ root.T
    moved = small_matrices.solve(matrix, x)
    moved += small_matrices.solve_positive(matrix, x)
    return jnp.sum(jnp.sin(moved)) + small_matrices.log_determinant(matrix)

  def theirs(root, x):
    matrix = root @ root.T
    moved = 2 * jnp.linalg.solve(matrix, x)
    return jnp.sum(jnp.sin(moved)) + jnp.linalg.slogdet(matrix)[1]

  with jax.enable_x64(True):
    arguments = jnp.asarray(drawn(3, 3)), jnp.asarray(drawn(3, 2))
    for derive in (jax.grad, jax.hessian):
      got, wanted = (
        jax.jit(derive(function, argnums=(0, 1)))(*arguments)
        for function in (ours, theirs)
      )
      pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
      for one, other in pairs:
        assert relative_error(one, other) < 1e-10


def test_no_logarithm_of_what_is_not_positive():
  assert np.isnan(small_matrices.log_determinant(-jnp.eye(3)))
  assert not np.isfinite(
    small_matrices.solve(jnp.zeros((2, 2)), jnp.eye(2))
  ).all()
