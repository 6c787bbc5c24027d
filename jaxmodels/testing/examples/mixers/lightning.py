"""Lightning attention: fixed decays that depend on the layer."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  rms,
  sigmoid,
  silu,
)


def plain(p, x, layer, place=0, depth=1):
  """One document x [L, D], token by token, in layer `place` of `depth`."""
  heads = layer.heads
  q, k, v = (silu(y) for y in projections(p, x, heads))
  out = np.zeros(v.shape)
  for h in range(heads):
    slope = 2 ** (-8 * (h + 1) / heads)
    slope *= 1 - place / (depth - 1 + 1e-5) + 1e-5
    memory = 0
    for t in range(len(x)):
      memory = np.exp(-slope) * memory + np.outer(k[t, h], v[t, h])
      out[t, h] = memory.T @ q[t, h]
  out = rms(merge(out), p["norm"]["scale"], layer.norm_epsilon)
  return dense(p["output"], sigmoid(dense(p["output_gate"], x)) * out)


EXAMPLES = (
  MixerExample(
    "lightning",
    "lightning",
    plain,
    {"heads": 2},
    equation="`S_t = exp(-s) S_{t-1} + k_t v_t^T`, s fixed per head and layer",
    transition="scalar: fixed",
    paper="Qin et al. 2024, arXiv:2401.04658",
  ),
)
