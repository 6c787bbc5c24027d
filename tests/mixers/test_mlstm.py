"""The mLSTM: its stabiliser, and its published initial gates."""

import jax
import numpy as np

from jaxmodels.mixers import MLSTM


def test_input_gates_beyond_the_range_of_float32():
  """e^200 and e^250 overflow; a common factor cancels in the normaliser."""
  layer = MLSTM(8, heads=2, gate_cap=None)
  x = np.random.default_rng(0).normal(size=(1, 30, 8)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  gates = np.exp(params["input_gate_bias"])
  np.testing.assert_allclose(gates, np.exp(-10.0), rtol=1e-5)
  np.testing.assert_allclose(params["forget_gate_bias"], [3, 6])
  apply = jax.jit(layer.apply)

  def with_bias(bias):
    gates = {"input_gate_bias": np.float32([bias, bias])}
    return apply({"params": params | gates}, x)[0]

  y = with_bias(200.0)
  assert np.isfinite(y).all()
  np.testing.assert_allclose(with_bias(250.0), y, atol=1e-5)
  assert np.abs(with_bias(-10.0) - y).max() > 1e-3
