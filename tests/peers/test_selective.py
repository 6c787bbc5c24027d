"""Whole selective mixers against the layers of others, on a CPU.

The layer of the peer keeps its own random parameters, which are mapped to ours.
"""

import jax
import numpy as np
import pytest

from jaxmodels import mixers
from jaxmodels.testing import relative_error, tolerance
from tests.peers.compare import load

pytestmark = pytest.mark.slow


def check(layer, params, module, call=None, length=37):
  """Compares the outputs of one random input; prints the error."""
  torch = load("torch")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, length, layer.width)).astype(np.float32)
  with torch.no_grad():
    wanted = (call or module)(torch.tensor(x))
  wanted = wanted[0] if isinstance(wanted, tuple) else wanted
  y = jax.jit(layer.apply)({"params": params}, x)[0]
  error = relative_error(y, wanted.numpy())
  print(f"{type(layer).__name__}: {error:.1e}")
  assert error < tolerance(np.float32)


def drawn(module):
  """Random parameters, so that none is at a special value."""
  torch = load("torch")
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  weights = {
    name: parameter.detach().numpy()
    for name, parameter in module.named_parameters()
  }
  return module.eval(), weights


def kernels(weights, **names):
  """Linear maps by our name, from the peer's names."""
  return {
    ours: {"kernel": weights[f"{theirs}.weight"].T}
    for ours, theirs in names.items()
  }


def convolution(weights, name):
  kernel = {"kernel": weights[f"{name}.weight"][:, 0].T}
  return kernel | {"bias": weights[f"{name}.bias"]}


def test_mamba():
  configuration = load("transformers.models.mamba.configuration_mamba")
  modeling = load("transformers.models.mamba.modeling_mamba")
  config = configuration.MambaConfig(
    vocab_size=8, hidden_size=16, state_size=6, num_hidden_layers=1
  )
  module, weights = drawn(modeling.MambaMixer(config, 0))
  projected = np.split(weights["in_proj.weight"], 2)
  selected = np.split(weights["x_proj.weight"], [1, 7])
  parts = zip(
    ("input", "gate", "step_down", "B", "C"),
    (*projected, *selected),
    strict=True,
  )
  params = {
    **{name: {"kernel": weight.T} for name, weight in parts},
    **kernels(weights, step_up="dt_proj", output="out_proj"),
    "convolution": convolution(weights, "conv1d"),
    "dt_bias": weights["dt_proj.bias"],
    "A_log": weights["A_log"],
    "D": weights["D"],
  }
  check(mixers.Mamba(width=16, state_width=6), params, module)


def test_mlstm():
  """The layer of xLSTM 7B, in the parallel form of transformers."""
  configuration = load("transformers.models.xlstm.configuration_xlstm")
  modeling = load("transformers.models.xlstm.modeling_xlstm")
  config = configuration.xLSTMConfig(
    hidden_size=32, num_heads=2, num_hidden_layers=1, vocab_size=8,
    autocast_kernel_dtype="float32",
  )  # fmt: skip
  module, weights = drawn(modeling.xLSTMLayer(config))
  params = kernels(
    weights, query="q", key="k", value="v", output="out_proj",
    output_gate="ogate_preact", input_gate="igate_preact",
    forget_gate="fgate_preact",
  )  # fmt: skip
  params |= {
    "norm": {"scale": weights["multihead_norm.weight"], "bias": np.zeros(32)},
    "input_gate_bias": weights["igate_preact.bias"],
    "forget_gate_bias": weights["fgate_preact.bias"],
  }
  params = jax.tree.map(np.float32, params)
  check(mixers.MLSTM(width=32, heads=2), params, module)
