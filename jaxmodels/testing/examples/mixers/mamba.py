"""Mamba."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  silu,
  softplus,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  z, u = dense(p["gate"], x), convolve(p["convolution"], dense(p["input"], x))
  dt = dense(p["step_up"], dense(p["step_down"], u)) + p["dt_bias"]
  dt, b, c = softplus(dt), dense(p["B"], u), dense(p["C"], u)
  out, memory = np.zeros(u.shape), np.zeros(p["A_log"].shape)
  for t in range(len(x)):
    a = np.exp(-np.exp(p["A_log"]) * dt[t][:, None])
    a = 2 * a - 1 if layer.negative_eigenvalues else a
    memory = a * memory + np.outer(dt[t] * u[t], b[t])
    out[t] = memory @ c[t] + p["D"] * u[t]
  return dense(p["output"], out * silu(z))


EXAMPLES = (
  MixerExample(
    "mamba",
    "mamba",
    plain,
    {"state_width": 6, "step_rank": 3},
    equation="`h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`",
    transition="diagonal",
    paper="Gu and Dao 2023, arXiv:2312.00752",
  ),
  MixerExample(
    "mamba_negative",
    "mamba",
    plain,
    {"expand": 1, "state_width": 4, "negative_eigenvalues": True},
  ),
)
