"""LinOSS: forced harmonic oscillators."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, gelu, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token; "im" solves for both at once."""
  a, dt = np.maximum(p["A"], 0), sigmoid(p["step_logit"])
  y, z, out = np.zeros(len(a)), np.zeros(len(a)), []
  for u in x:
    force = p["B"] @ u
    if layer.scheme == "imex":
      z = z + dt * (-a * y + force)
      y = y + dt * z
    else:
      for i in range(len(a)):
        system = np.array([[1, dt[i] * a[i]], [-dt[i], 1]])
        known = [z[i] + dt[i] * force[i], y[i]]
        z[i], y[i] = np.linalg.solve(system, known)
    o = gelu(p["C"] @ y + p["D"] * u)
    out.append(dense(p["output"], o) * sigmoid(dense(p["gate"], o)))
  return np.stack(out)


EXAMPLES = (
  MixerExample(
    "linoss",
    "linoss",
    plain,
    {"oscillators": 6},
    equation="`y_t = y_{t-1} + dt z_t`, `z_t = z_{t-1} + dt (-A y_t + B x_t)`",
    transition="diagonal: fixed blocks of 2 x 2",
    paper="Rusch & Rus 2024, arXiv:2410.03943",
  ),
)
