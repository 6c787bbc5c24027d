"""Mamba-3: Mamba-2 as its special case, and parity by rotation."""

import jax
import numpy as np
import pytest

from jaxmodels.mixers import Mamba3
from jaxmodels.mixers.mamba3 import angles_of, split_turns
from jaxmodels.ops import diagonal_recurrence, linear_attention
from jaxmodels.testing.examples.mixers.parts import dense, rms, silu, softplus
from tests.mixers.test_mamba import ONE, with_values


def test_without_trapezoid_and_rotation_it_is_the_recurrence_of_mamba2():
  """With lambda of 1: `S_t = exp(dt A) S_{t-1} + B_t (dt_t u_t)^T`."""
  layer = Mamba3(8, expand=1, head_width=4, state_width=6)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 40, 8)).astype(np.float32)
  x[..., 0] = 1
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  only_first = np.eye(8, dtype=np.float32)[:, :1]
  params |= {
    "trapezoid": {"kernel": ONE * only_first * np.ones((1, 2), np.float32)},
    "angle": {"kernel": np.zeros((8, 1), np.float32)},
  }
  y, _ = jax.jit(layer.apply)({"params": params}, x)
  p = jax.tree.map(np.asarray, params)
  dt = softplus(dense(p["step"], x) + p["dt_bias"])
  u, z = (dense(p[name], x).reshape(2, 40, 2, 4) for name in ("input", "gate"))
  b, c = (
    rms(dense(p[name], x), p[f"{name}_norm"]["scale"])[:, :, None]
    + p[f"{name}_bias"][:, 0]
    for name in "BC"
  )
  read, _ = linear_attention(
    c, b, dt[..., None] * u, -softplus(dense(p["rate"], x)) * dt
  )
  read = (read + p["D"][:, None] * u) * silu(z)
  wanted = dense(p["output"], np.asarray(read).reshape(2, 40, 8))
  np.testing.assert_allclose(y, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("rotates", [False, True])
def test_a_layer_set_by_hand_computes_parity_by_rotation(rotates):
  """A token of 1 rotates the state by half a turn, and adds w to it.

  At a token of 0, dt is nearly 0: nothing rotates and nothing is written.
  """
  layer = Mamba3(2, expand=1, head_width=2, state_width=2, rotary_fraction=1.0)
  constant = np.array([[0.0], [1.0]])
  params = with_values(
    layer,
    input_kernel=constant,
    gate_kernel=constant,
    B_kernel=constant * [1, 0],
    C_kernel=constant * [1, 0],
    B_norm_scale=1.0,
    C_norm_scale=1.0,
    # At a token of 1 dt is 1, the softplus of log(e - 1).
    step_kernel=[[(200 + np.log(np.e - 1)) / ONE], [0.0]],
    dt_bias=-200.0,
    rate_kernel=-constant,
    trapezoid_kernel=constant,
    angle_kernel=constant * rotates,
    output_kernel=np.eye(2),
  )
  bits = np.random.default_rng(0).integers(0, 2, (1, 512))
  x = ONE * np.stack([bits, np.ones_like(bits)], -1).astype(np.float32)
  y = np.asarray(jax.jit(layer.apply)(params, x)[0])[..., 0]
  odd = np.abs(y) > np.abs(y[y != 0]).min() / 2
  if rotates:
    odd = np.abs(y) > np.abs(y).max() / 2
    np.testing.assert_array_equal(odd, np.cumsum(bits, 1) % 2 == 1)
  else:
    np.testing.assert_array_equal(odd, np.cumsum(bits, 1) > 0)


def test_angles_are_exact_over_long_sequences():
  """32,768 tokens that all turn in one direction: more than 1,000 turns."""
  turns = np.random.default_rng(0).uniform(0, 0.1, (1, 32768, 1))
  turns = turns.astype(np.float32)
  parts = split_turns(turns)
  sums, last = jax.jit(diagonal_recurrence)(np.ones_like(parts), parts)
  exact = np.cumsum(np.float64(turns), 1)
  assert exact[0, -1, 0] > 1000
  error = np.asarray(angles_of(sums), np.float64) / (2 * np.pi) - exact
  assert np.abs(error - np.round(error)).max() < 2e-5
  np.testing.assert_array_equal(angles_of(last), angles_of(sums)[:, -1])
