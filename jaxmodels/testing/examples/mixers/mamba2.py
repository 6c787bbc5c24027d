"""Mamba-2."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  rms,
  silu,
  softplus,
)

ACTIVATIONS = {"silu": silu, "relu": lambda x: np.maximum(x, 0)}


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  inner, width = layer.inner_width, layer.head_width
  heads, groups, states = inner // width, layer.groups, layer.state_width
  factors = layer.input_factors or (1, 1, 1, 1, 1)
  z = dense(p["gate"], x) * factors[0]
  sizes = (inner, groups * states, groups * states)
  projected = dense(p["input"], x) * np.repeat(factors[1:4], sizes)
  mixed = convolve(p["convolution"], projected, ACTIVATIONS[layer.activation])
  u = mixed[:, :inner].reshape(len(x), heads, width)
  b = mixed[:, inner : inner + groups * states].reshape(-1, groups, states)
  c = mixed[:, inner + groups * states :].reshape(-1, groups, states)
  dt = softplus(dense(p["step"], x) * factors[4] + p["dt_bias"])
  dt = np.clip(dt, *layer.step_limits)
  out = np.zeros(u.shape)
  for h in range(heads):
    g = h // (heads // groups)
    memory = np.zeros((width, states))
    for t in range(len(x)):
      a = np.exp(-np.exp(p["A_log"][h]) * dt[t, h])
      memory = (2 * a - 1 if layer.negative_eigenvalues else a) * memory
      memory = memory + dt[t, h] * np.outer(u[t, h], b[t, g])
      out[t, h] = memory @ c[t, g] + p["D"][h] * u[t, h]
  y, gate = out.reshape(len(x), -1), silu(z)

  def norm(y):
    scale = p["norm"]["scale"].reshape(groups, -1)
    y = y.reshape(len(x), groups, -1)
    return rms(y, scale, layer.norm_epsilon).reshape(len(x), -1)

  if layer.gated_norm == "none":
    y = y * gate
  else:
    y = norm(y * gate) if layer.gated_norm == "after" else norm(y) * gate
  return dense(p["output"], y)


EXAMPLES = (
  MixerExample(
    "mamba2",
    "mamba2",
    plain,
    {"head_width": 8, "state_width": 6, "groups": 2, "norm_epsilon": 1e-3},
    equation="`S_t = a_t S_{t-1} + B_t (dt_t x_t)^T`",
    transition="scalar",
    paper="Dao and Gu 2024, arXiv:2405.21060",
  ),
  MixerExample(
    "mamba2_negative",
    "mamba2",
    plain,
    {"head_width": 8, "state_width": 6, "negative_eigenvalues": True},
  ),
  MixerExample(
    "mamba2_options",
    "mamba2",
    plain,
    {
      "heads": 3,
      "head_width": 6,
      "state_width": 5,
      "step_limits": (0.3, 0.7),
      "gated_norm": "before",
      "input_bias": True,
      "output_bias": True,
      "convolution_bias": False,
      "activation": "relu",
      "input_factors": (0.5, 1.5, 0.7, 1.2, 2.0),
    },
  ),
  MixerExample(
    "mamba2_no_norm",
    "mamba2",
    plain,
    {"head_width": 8, "state_width": 6, "gated_norm": "none"},
  ),
)
