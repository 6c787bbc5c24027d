"""RetNet's multi-scale retention."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, projections, silu


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads = layer.heads
  q, k, v = projections(p, x, heads)
  half = q.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  # A pair of channels is a complex number; products take the real part.
  q = (q[..., :half] + 1j * q[..., half:]) * turn / np.sqrt(2 * half)
  k = (k[..., :half] + 1j * k[..., half:]) * turn
  scale, bias = (
    p["norm"][name].reshape(heads, -1) for name in ("scale", "bias")
  )
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((half, v.shape[-1]), complex)
    for t in range(len(x)):
      memory = (1 - 2.0 ** (-5 - h)) * memory
      memory = memory + np.outer(k[t, h].conj(), v[t, h])
      y = (q[t, h] @ memory).real
      y = (y - y.mean()) / np.sqrt(y.var() + layer.norm_epsilon)
      out[t, h] = scale[h] * y + bias[h]
  out = out.reshape(len(x), -1) * silu(dense(p["output_gate"], x))
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "retnet",
    "retnet",
    plain,
    {"heads": 2},
    equation="`S_t = g_h S_{t-1} + k_t v_t^T`, rotary positions",
    transition="scalar: fixed",
    paper="Sun et al. 2023, arXiv:2307.08621",
  ),
)
