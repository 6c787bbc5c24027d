"""LRU: a complex diagonal recurrence."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, gelu, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  del layer
  a = np.exp(-np.exp(p["log_decay_rate"]) + 1j * np.exp(p["log_frequency"]))
  b, c = (p[name][0] + 1j * p[name][1] for name in ("B", "C"))
  h, out = np.zeros(len(a), complex), []
  for u in x:
    h = a * h + np.exp(p["log_gain"]) * (b @ u)
    y = gelu((c @ h).real + p["D"] * u)
    out.append(dense(p["output"], y) * sigmoid(dense(p["gate"], y)))
  return np.stack(out)


EXAMPLES = (
  MixerExample(
    "lru",
    "lru",
    plain,
    {"state_width": 10, "radius_max": 0.99},
    equation="`h_t = a h_{t-1} + gamma B x_t`, `a = exp(-exp(nu) + i "
    "exp(theta))`",
    transition="diagonal: fixed, complex",
    paper="Orvieto et al. 2023, arXiv:2303.06349",
  ),
)
