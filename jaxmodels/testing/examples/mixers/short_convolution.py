"""A short convolution between two gates."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  gate = dense(p["gate"], x) if layer.input_gate else 1
  u, kernel = gate * dense(p["input"], x), p["convolution"]["kernel"]
  out = np.zeros(u.shape)
  for t in range(len(x)):
    for j in range(min(t + 1, layer.kernel_width)):
      out[t] += kernel[-1 - j] * u[t - j]
  if layer.use_bias:
    out += p["convolution"]["bias"]
  return dense(p["output"], dense(p["output_gate"], x) * out)


EXAMPLES = (
  MixerExample(
    "short_convolution",
    "short_convolution",
    plain,
    equation="`y_t = C_t * sum_j kernel_j B_{t-j} x_{t-j}` over `kernel_width` "
    "tokens",
    transition="none: the last inputs",
    paper="Liquid AI 2025, arXiv:2511.23404",
  ),
  MixerExample(
    "short_convolution_with_biases",
    "short_convolution",
    plain,
    {"use_bias": True},
  ),
)
