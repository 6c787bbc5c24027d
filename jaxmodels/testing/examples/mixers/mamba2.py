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


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  inner, width = layer.expand * layer.width, layer.head_width
  heads, groups, states = inner // width, layer.groups, layer.state_width
  z = dense(p["gate"], x)
  mixed = convolve(p["convolution"], dense(p["input"], x))
  u = mixed[:, :inner].reshape(len(x), heads, width)
  b = mixed[:, inner : inner + groups * states].reshape(-1, groups, states)
  c = mixed[:, inner + groups * states :].reshape(-1, groups, states)
  dt = softplus(dense(p["step"], x) + p["dt_bias"])
  out = np.zeros(u.shape)
  for h in range(heads):
    g = h // (heads // groups)
    memory = np.zeros((width, states))
    for t in range(len(x)):
      a = np.exp(-np.exp(p["A_log"][h]) * dt[t, h])
      memory = (2 * a - 1 if layer.negative_eigenvalues else a) * memory
      memory = memory + dt[t, h] * np.outer(u[t, h], b[t, g])
      out[t, h] = memory @ c[t, g] + p["D"][h] * u[t, h]
  gated = (out.reshape(len(x), -1) * silu(z)).reshape(len(x), groups, -1)
  scale = p["norm"]["scale"].reshape(groups, -1)
  normed = rms(gated, scale, layer.norm_epsilon)
  return dense(p["output"], normed.reshape(len(x), -1))


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
)
