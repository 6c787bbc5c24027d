"""The counter against arithmetic done by hand, and against the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive

from jaxmodels.analysis.flops import Flops, count, unknown_line

N = 8
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)


def test_a_product():
  a = jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)
  b = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
  assert count(jnp.matmul, a, b) == Flops(products=2 * 3 * 4 * 5 * 7)


def test_a_product_by_groups_counts_each_row_once():
  a = jax.ShapeDtypeStruct((6, 4), jnp.float32)
  b = jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)
  sizes = np.array([1, 2, 3], np.int32)
  assert count(lax.ragged_dot, a, b, sizes).products == 2 * 6 * 4 * 5

  def loss(a, b):
    return jnp.sum(jnp.square(lax.ragged_dot(a, b, sizes)))

  # The product, and one for the gradient of each factor.
  slopes = count(jax.grad(loss, (0, 1)), a, b)
  assert slopes.products == 3 * 2 * 6 * 4 * 5


def test_complex_numbers_count_as_the_real_ones_they_are():
  z = jax.ShapeDtypeStruct((N,), jnp.complex64)
  assert count(lambda a, b: a * b + a, z, z).total == (6 + 2) * N
  assert count(jnp.dot, z, z).total == 8 * N


def test_a_convolution():
  x = jax.ShapeDtypeStruct((2, 3, 10, 10), jnp.float32)
  kernel = jax.ShapeDtypeStruct((4, 3, 3, 3), jnp.float32)

  def convolve(x, kernel):
    return lax.conv(x, kernel, (1, 1), "VALID")

  assert count(convolve, x, kernel).total == 2 * 3 * 9 * (2 * 4 * 8 * 8)


def powers(x, rounds=5):
  return lax.scan(lambda c, _: (c @ c, None), x, None, length=rounds)[0]


def test_a_loop_counts_as_often_as_it_runs():
  assert count(powers, SQUARE).total == 5 * 2 * N**3
  # Which is why this module is here: the compiler counts it once.
  compiled = jax.jit(powers).lower(SQUARE).compile()
  assert compiled.cost_analysis()["flops"] < 2 * 2 * N**3


def test_loops_in_loops_and_calls():
  def twice(x):
    return lax.fori_loop(0, 3, lambda _, y: jax.jit(powers)(y), x)

  assert count(twice, SQUARE).total == 3 * 5 * 2 * N**3


def test_a_branch_counts_its_longest():
  def either(x):
    return lax.cond(x[0, 0] > 0, lambda y: y @ y, lambda y: y + 1, x)

  assert count(either, SQUARE).products == 2 * N**3


@pytest.mark.parametrize(("remat", "products"), [(False, 6), (True, 7)])
def test_rematerialisation_makes_products_again(remat, products):
  """Two products forward, two for each backward, the inner one again."""

  def inner(x, w):
    return jnp.tanh(x @ w)

  inner = jax.checkpoint(inner) if remat else inner

  def loss(x, w):
    return jnp.sum((inner(x, w) @ w) ** 2)

  flops = count(jax.value_and_grad(loss, (0, 1)), SQUARE, SQUARE)
  assert flops.products == products * 2 * N**3


def test_custom_derivatives_count_what_they_call():
  @jax.custom_vjp
  def cube(x):
    return x @ x @ x

  cube.defvjp(lambda x: (cube(x), x), lambda x, g: (g @ x,))
  assert count(cube, SQUARE).products == 4 * N**3
  gradient = jax.value_and_grad(lambda x: jnp.sum(cube(x)))
  assert count(gradient, SQUARE).products == 6 * N**3


def test_what_nobody_reads_is_free():
  assert count(lambda x: (x @ x, x + 1)[1], SQUARE).total == N * N


def test_factorisations():
  assert count(jnp.linalg.cholesky, SQUARE).total >= N**3 / 3
  solve = count(jax.scipy.linalg.solve_triangular, SQUARE, SQUARE)
  assert N**3 <= solve.total <= 2 * N**3


def mlp(x, w):
  y = jnp.exp(-(x @ w)) + 1
  return jnp.sum((y / 3 - x) * x @ w, axis=0)


def norm(x, w):
  scale = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
  return jnp.tanh(x * scale * w)


@pytest.mark.parametrize("function", [mlp, norm])
@pytest.mark.parametrize("derive", [False, True])
def test_the_compiler_agrees_where_there_is_no_loop(function, derive):
  if derive:
    value = function
    function = jax.value_and_grad(lambda *a: jnp.sum(value(*a)), (0, 1))
  x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  flops = count(function, x, x)
  # Before it is optimised, so that both look at the same program. (There are
  # no comparisons in it: the compiler counts those too.)
  analysed = jax.jit(function).lower(x, x).cost_analysis()
  np.testing.assert_allclose(
    flops.products + flops.elementwise, analysed["flops"], rtol=0.1
  )
  assert flops.transcendental == analysed["transcendentals"]


def test_a_loop_of_unknown_length_counts_one_round_and_is_named():
  def multiply(x):
    return lax.while_loop(lambda y: y[0, 0] - 1.0 > 1, lambda y: y @ y / 2, x)

  flops = count(multiply, SQUARE)
  # The condition subtracts once, the body multiplies and halves.
  assert flops == Flops(2 * N**3, 1 + N * N, 0, frozenset({"while"}))
  assert "one round" in unknown_line(flops.unknown)


made_up = Primitive("made_up")
made_up.multiple_results = True
made_up.def_abstract_eval(
  lambda x: (ShapedArray((3,), jnp.int32), x, ShapedArray((), x.dtype))
)


def test_an_unknown_primitive_counts_its_output_elements_and_is_named():
  def once(x):
    return made_up.bind(x)[1] @ x

  flops = count(once, SQUARE)
  assert flops == Flops(2 * N**3, N * N + 1, 0, frozenset({"made_up"}))
  line = unknown_line(flops.unknown)
  assert line.count("made_up") == 1 and "while" not in line

  def often(x):
    branches = [lambda y: y @ y, lambda y: made_up.bind(y)[1]]
    x = lax.cond(x[0, 0] > 0, *branches, x)
    return lax.fori_loop(0, 5, lambda _, y: jax.jit(once)(y), x)

  found = count(often, SQUARE)
  assert found.products == 6 * 2 * N**3
  assert found.elementwise == 5 * (N * N + 1)
  assert found.unknown == {"made_up"}


def test_a_callback_without_results_is_free():
  def show(x):
    jax.debug.callback(lambda y: None, x)
    return x @ x

  assert count(show, SQUARE) == Flops(products=2 * N**3)
