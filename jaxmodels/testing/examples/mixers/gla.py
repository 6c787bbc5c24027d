"""GLA: gated linear attention."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  rms,
  sigmoid,
  silu,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads = layer.heads
  q, k, v, gate = (
    dense(p[name], x).reshape(len(x), heads, -1)
    for name in ("query", "key", "value", "output_gate")
  )
  a = sigmoid(dense(p["decay_up"], dense(p["decay_down"], x))) ** (1 / 16)
  a = a.reshape(k.shape)
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      memory = a[t, h][:, None] * memory + np.outer(k[t, h], v[t, h])
      y = memory.T @ q[t, h] / np.sqrt(k.shape[-1])
      out[t, h] = silu(gate[t, h]) * rms(
        y, p["norm"]["scale"], layer.norm_epsilon
      )
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "gla",
    "gla",
    plain,
    equation="`S_t = diag(a_t) S_{t-1} + k_t v_t^T`",
    transition="diagonal",
    paper="Yang et al. 2023, arXiv:2312.06635",
  ),
)
