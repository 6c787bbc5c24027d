"""Kernels in int8: the error of a weight, and of the logits of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import interop
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import family_of
from jaxmodels.interop.int8 import Int8Kernel, quantize
from tests.interop.families.mamba2 import TINY


@pytest.mark.parametrize("shape", [(300, 40), (3, 120, 24)])
def test_a_weight_is_off_by_half_a_step_at_most(shape):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=shape).astype(np.float32)
  kernel[..., 7, :] *= 50  # An outlier channel.
  int8 = quantize(kernel)
  assert int8.shape == shape
  assert (int8.rows == 7).any(-1).all()
  back = np.asarray(jnp.asarray(int8, jnp.float32))
  assert (np.abs(back - kernel) <= 0.501 * np.asarray(int8.scales)).all()
  # The outlier channel is exact, and does not coarsen the others.
  np.testing.assert_array_equal(back[..., 7, :], kernel[..., 7, :])
  assert np.asarray(int8.scales).max() < 5.5 / 127


@pytest.mark.slow
def test_a_model_loads_in_int8(tmp_path):
  config = Config(TINY[0] | {"hidden_size": 64, "num_heads": 16})
  model = family_of(config).read(config)
  tokens = jnp.asarray(np.arange(24).reshape(2, 12))
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  interop.save(tmp_path, model, variables)
  model, whole = interop.load(tmp_path)
  _, small = interop.load(tmp_path, int8=True)
  layer = small["params"]["backbone"]["layer_0"]["mixer"]
  assert isinstance(layer["input"]["kernel"], Int8Kernel)
  assert layer["convolution"]["kernel"].dtype == jnp.float32
  call = jax.jit(model.apply)
  expected, got = call(whole, tokens)[0], call(small, tokens)[0]
  error = np.max(np.abs(got - expected)) / np.max(np.abs(expected))
  assert 1e-4 < error < 0.02
  with pytest.raises(interop.FolderError, match="int8 cannot be saved"):
    interop.save(tmp_path, model, small)
  with pytest.raises(interop.FolderError, match="int8 excludes scan_layers"):
    interop.load(tmp_path, int8=True, scan_layers=True)
