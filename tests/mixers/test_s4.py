"""LSSL, S4 and S4D: recurrence, convolution and step are the same model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import state_space as parts
from jaxmodels.layers.hippo import BASES, diagonalise, hippo
from jaxmodels.mixers import LSSL, S4, S4D
from jaxmodels.ops import long_convolution, state_space

SIZE, LENGTH = 32, 61
STEPS = np.array([1e-3, 1e-2, 1e-1])
RNG = np.random.default_rng(0)


def dense_model(basis, shift=0.0):
  """The bilinear HiPPO matrices of each step size, in float64."""
  matrix, b = hippo(basis, SIZE)
  matrix = matrix - shift * np.eye(SIZE)
  for step in STEPS:
    inverse = np.linalg.inv(np.eye(SIZE) - step / 2 * matrix)
    yield inverse @ (np.eye(SIZE) + step / 2 * matrix), step * inverse @ b


def krylov(a, b, c, length):
  """C A^j B for j < length."""
  kernel = []
  for _ in range(length):
    kernel.append(c @ b)
    b = a @ b
  return np.array(kernel)


def low_rank_arguments(basis):
  """A start of S4 with C = V^H c of a real c, as JAX arrays."""
  found = diagonalise(basis, SIZE)
  c = RNG.standard_normal(SIZE)
  # The published code starts decay rates at 1e-4 at least.
  rate = np.log(np.maximum(-found.eigenvalues.real, 1e-4))
  rows = [
    np.broadcast_to(row, (len(STEPS), *row.shape))
    for row in (rate, found.eigenvalues.imag, found.B, c @ found.vectors)
  ]
  rate, frequency, b, read = rows
  p = np.broadcast_to(
    found.low_rank.T[:, None], (found.low_rank.shape[1], *b.shape)
  )
  steps = np.broadcast_to(np.log(STEPS)[:, None], b.shape)
  narrow = [
    jnp.asarray(x, jnp.complex64 if np.iscomplexobj(x) else jnp.float32)
    for x in (rate, frequency, p, b, read, steps)
  ]
  return narrow, c


@pytest.mark.parametrize("basis", BASES)
def test_the_low_rank_kernel_is_that_of_the_dense_matrix(basis):
  (rate, frequency, p, b, c, step), real_c = low_rank_arguments(basis)
  shift = 0.0 if basis == "legs" else 1e-4
  wanted = np.stack(
    [krylov(*model, real_c, LENGTH) for model in dense_model(basis, shift)], 1
  )
  scale = np.abs(wanted).max(0, keepdims=True)
  kernel = jax.jit(functools.partial(parts.low_rank_kernel, length=LENGTH))
  got = kernel(rate, frequency, p, b, c, step)
  np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-4)
  # And the recurrence of the layer, of an impulse.
  matrix, write = jax.jit(parts.bilinear_low_rank)(rate, frequency, p, b, step)
  read = 2**0.5 * jnp.concatenate([c.real, -c.imag], -1)
  impulse = np.zeros((1, LENGTH, len(STEPS)), np.float32)
  impulse[:, 0] = 1
  for method in ("recurrent", "chunked"):
    run = jax.jit(functools.partial(state_space, method=method))
    y, _ = run(impulse, matrix, write, read)
    np.testing.assert_allclose(y[0] / scale, wanted / scale, atol=1e-4)


def test_lssl_is_a_convolution_with_its_krylov_kernel():
  layer = LSSL(len(STEPS), state_width=SIZE)
  x = RNG.standard_normal((1, LENGTH, len(STEPS))).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  params = {**params, "log_step": np.log(STEPS).astype(np.float32)}
  c = np.asarray(params["C"], np.float64)
  kernel = np.stack(
    [
      krylov(*model, c[d], LENGTH)
      for d, model in enumerate(dense_model("legs"))
    ],
    1,
  )
  wanted = np.stack(
    [np.convolve(x[0, :, d], kernel[:, d])[:LENGTH] for d in range(len(STEPS))],
    1,
  )
  np.testing.assert_allclose(
    long_convolution(x[0], kernel.astype(np.float32)),
    wanted,
    atol=1e-5 * np.abs(wanted).max(),
  )
  # What the layer computes before its gate: GELU(y + D x).
  wanted = jax.nn.gelu(wanted.astype(np.float32) + params["D"][None] * x[0])
  gate = jax.nn.sigmoid(wanted @ params["gate"]["kernel"])
  wanted = wanted @ params["output"]["kernel"] * gate
  y, _ = jax.jit(layer.apply)({"params": params}, x)
  np.testing.assert_allclose(y[0], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_legs_state_reconstructs_a_smooth_input():
  """From its Legendre coefficients, of the past warped by e^-s."""
  step, length = 2e-3, 3000
  matrix, b = hippo("legs", SIZE)
  a, b = parts.bilinear_dense(
    jnp.asarray(matrix, jnp.float32),
    jnp.asarray(b, jnp.float32),
    jnp.log(jnp.full((1,), step)),
  )
  times = step * np.arange(length)
  u = np.cos(2 * times) + 0.5 * np.sin(5 * times + 1)
  x = u.astype(np.float32)[None, :, None]
  _, state = jax.jit(state_space)(x, a, b, jnp.zeros_like(b))
  ago = np.array([0.2, 0.5, 1.0, 1.5])
  basis = [
    np.sqrt(2 * n + 1)
    * np.polynomial.legendre.legval(2 * np.exp(-ago) - 1, np.eye(SIZE)[n])
    for n in range(SIZE)
  ]
  got = np.asarray(state[0, 0]) @ np.stack(basis)
  wanted = np.interp(times[-1] - ago, times, u)
  np.testing.assert_allclose(got, wanted, atol=0.02)


@pytest.mark.slow
def test_the_convolution_of_s4_is_its_recurrence():
  x = RNG.standard_normal((2, LENGTH - 1, 4)).astype(np.float32)
  recurrent = S4(4, state_width=8, basis="legt")
  params = recurrent.init(jax.random.key(0), x)
  convolution = recurrent.clone(convolution=True)

  def loss(layer, params):
    y, state = layer.apply(params, x)
    return jnp.sum(jnp.sin(y)), (y, state)

  results = [
    jax.jit(jax.grad(functools.partial(loss, layer), has_aux=True))(params)
    for layer in (recurrent, convolution)
  ]
  for wanted, got in zip(*map(jax.tree.leaves, results), strict=True):
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, atol=1e-4 * scale)


def test_bilinear_and_zero_order_hold_approach_each_other():
  """Both discretise the same model: the difference falls as step^2."""
  errors = []
  for step in (0.1, 0.01):
    arguments = [jnp.log(0.5), jnp.asarray(2.0), jnp.log(step)]
    held, between = (
      parts.zero_order_hold(*arguments),
      parts.bilinear(*arguments),
    )
    z = (-0.5 + 2j) * step
    np.testing.assert_allclose(between[0], (1 + z / 2) / (1 - z / 2), rtol=1e-5)
    np.testing.assert_allclose(between[1], step / (1 - z / 2), rtol=1e-5)
    errors.append(abs(held[0] - between[0]))
  assert errors[1] < 2e-3 * errors[0]


@pytest.mark.parametrize("basis", ["lin", "inv"])
def test_s4d_starts_at_its_eigenvalues(basis):
  layer = S4D(3, state_width=8, basis=basis, discretisation="bilinear")
  x = jnp.zeros((1, 2, 3))
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  np.testing.assert_allclose(np.exp(params["log_decay_rate"]), 0.5, rtol=1e-6)
  n = np.arange(4)
  wanted = {"lin": np.pi * n, "inv": 8 / np.pi * (8 / (2 * n + 1) - 1)}[basis]
  np.testing.assert_allclose(params["frequency"][1], wanted, rtol=1e-5)
  steps = np.exp(params["log_step"])
  assert (
    steps.shape == (3,) and (steps > 0.999e-3).all() and (steps < 0.1).all()
  )
