"""GLA: gated linear attention."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolved,
  dense,
  merge,
  projections,
  rms,
  sigmoid,
  silu,
  split,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads, shared = layer.heads, layer.kv_heads or layer.heads
  project = projections if layer.kernel_width is None else convolved
  (q,) = project(p, x, heads, ("query",))
  k, v = project(p, x, shared, ("key", "value"))
  if layer.feature_map is not None:
    q, k = np.maximum(q, 0), np.maximum(k, 0)
  a = sigmoid(dense(p["decay_up"], dense(p["decay_down"], x)))
  a = split(a ** (1 / layer.temperature), shared)
  if layer.lowest_log_decay is not None:
    a = np.maximum(a, np.exp(layer.lowest_log_decay))
  scale = p["norm"]["scale"] if layer.norm_scale else 1
  out = np.zeros((len(x), heads, v.shape[-1]))
  for h in range(heads):
    g = h * shared // heads
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      memory = a[t, g][:, None] * memory + np.outer(k[t, g], v[t, g])
      y = memory.T @ q[t, h] / np.sqrt(k.shape[-1])
      out[t, h] = rms(y, scale, layer.norm_epsilon)
  out = merge(out)
  if layer.output_gate:
    out = out * silu(dense(p["output_gate"], x))
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "gla",
    "gla",
    plain,
    equation="`S_t = diag(a_t) S_{t-1} + k_t v_t^T`",
    transition="diagonal",
    paper="Yang et al. 2023, arXiv:2312.06635",
  ),
  MixerExample(
    "gla_options",
    "gla",
    plain,
    {
      "kv_heads": 2,
      "kernel_width": 3,
      "feature_map": "relu",
      "lowest_log_decay": -0.05,
      "output_gate": False,
      "norm_scale": False,
    },
  ),
)
