"""Ops that are given pairs of x and y run the algorithms of regression.

Keys and queries are the x, and values the y; position i reads the pair before
it and its own question, as in the rows of `LinearRegression`.
"""

import jax
import numpy as np

from jaxmodels import ops
from train.data.tasks import LinearRegression
from train.data.tasks.regression import delta_rule, gradient_step, least_squares

TASK = LinearRegression(length=24, dims=4, noise=0.5)
(ROW,) = LinearRegression(
  length=24, dims=4, noise=0.5, train_examples=1
).generate("train")
D, L = TASK.dims, TASK.length
INPUTS = ROW["inputs"][None, :, None]  # [1, L, 1, 2 d + 1]
K, V, Q = INPUTS[..., :D], INPUTS[..., D : D + 1], INPUTS[..., D + 1 :]
ONES = np.ones((1, L, 1), np.float32)


def assert_predictions(op, wanted, *args, **options):
  y, _ = jax.jit(lambda *args: op(*args, **options))(*args)
  np.testing.assert_allclose(y[0, :, 0, 0], wanted, atol=1e-4)


def test_mesa_is_ridge_regression():
  # A regularisation other than 1 divides q and k by its root.
  root = np.float32(TASK.strength**0.5)
  wanted = ROW["reference"][:, 0]
  assert_predictions(ops.mesa, wanted, Q / root, K / root, V, ONES)
  weak = np.float32(1e-2)
  x, y = TASK.pairs(ROW)
  # Less regularisation approaches least squares, once it has d pairs and more.
  y_weak, _ = jax.jit(ops.mesa)(Q / weak, K / weak, V, ONES)
  wanted = least_squares(x, y)
  np.testing.assert_allclose(y_weak[0, 12:, 0, 0], wanted[12:], atol=0.01)


def test_linear_attention_is_one_gradient_step():
  wanted = gradient_step(*TASK.pairs(ROW))
  assert_predictions(ops.linear_attention, wanted, Q, K, V)


def test_the_delta_rule_is_one_gradient_step_per_pair():
  size = np.linalg.norm(K, axis=-1)
  # The key before position 0 is zero.
  rate = 0.8 / np.where(size > 0, size, 1) ** 2
  wanted = delta_rule(*TASK.pairs(ROW), 0.8)
  assert_predictions(ops.delta_rule, wanted, Q, K, V, rate)


def test_ttt_is_the_delta_rule_or_one_gradient_step_by_its_mini_batch():
  size = np.linalg.norm(K, axis=-1)
  rate = 0.8 / np.where(size > 0, size, 1) ** 2
  start = np.zeros((1, D, 1), np.float32)
  x, y = TASK.pairs(ROW)
  each = (ops.ttt_linear, delta_rule(x, y, 0.8), Q, K, V, rate, start)
  assert_predictions(*each, mini_batch=1)
  whole = (ops.ttt_linear, 0.1 * gradient_step(x, y), Q, K, V)
  assert_predictions(*whole, np.float32(0.1) * ONES, start, mini_batch=L)
