"""S5: a diagonal state space model."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, gelu, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  del layer
  rate = -np.exp(p["log_decay_rate"]) + 1j * p["frequency"]
  # Sums both of each conjugate pair, not twice the real part of one.
  rate = np.concatenate([rate, rate.conj()])
  b = p["B"][0] + 1j * p["B"][1]
  c = p["C"][0] + 1j * p["C"][1]
  b, c = np.concatenate([b, b.conj()]), np.concatenate([c, c.conj()], 1)
  a = np.exp(rate * np.tile(np.exp(p["log_step"]), 2))
  h, out = np.zeros(len(rate), complex), []
  for u in x:
    h = a * h + ((a - 1) / rate) * (b @ u)
    y = c @ h
    np.testing.assert_allclose(y.imag, 0, atol=1e-9)
    y = gelu(y.real + p["D"] * u)
    out.append(y * sigmoid(dense(p["gate"], y)))
  return np.stack(out)


EXAMPLES = (
  MixerExample(
    "s5",
    "s5",
    plain,
    {"state_width": 12, "blocks": 2},
    equation="`h_t = exp(dt A) h_{t-1} + A^{-1} (exp(dt A) - I) B x_t`",
    transition="diagonal: fixed, complex",
    paper="Smith et al. 2022, arXiv:2208.04933",
  ),
)
