"""RG-LRU: the gated diagonal recurrence of Griffin."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  gelu,
  sigmoid,
  softplus,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  u = convolve(p["convolution"], dense(p["input"], x), lambda x: x)

  def gate(name):
    kernel, bias = p[name]["kernel"], p[name]["bias"]
    parts = np.split(u, layer.heads, 1)
    parts = [part @ kernel[i] + bias[i] for i, part in enumerate(parts)]
    return sigmoid(np.concatenate(parts, 1))

  r, i = gate("recurrence_gate"), gate("input_gate")
  a = np.exp(-8 * r * softplus(p["Lambda"]))
  h, states = np.zeros(u.shape[1]), []
  for t in range(len(x)):
    factor = np.sqrt(1 - a[t] ** 2) if t else 1
    h = a[t] * h + factor * i[t] * u[t]
    states.append(h)
  return dense(p["output"], np.stack(states) * gelu(dense(p["gate"], x)))


EXAMPLES = (
  MixerExample(
    "rg_lru",
    "rg_lru",
    plain,
    {"lru_width": 24},
    equation="`h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t`, `a_t = a^(8 r_t)`",
    transition="diagonal",
    paper="De et al. 2024, arXiv:2402.19427",
  ),
)
