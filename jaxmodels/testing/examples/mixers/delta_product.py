"""DeltaProduct: several delta rule steps per token."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolved,
  dense,
  log_decay,
  read_out,
  sigmoid,
  unit,
)


def plain(p, x, layer):
  """One document x [L, D], token by token and step by step."""
  shape = len(x), layer.heads, layer.steps
  q, k, v = convolved(p, x, layer.heads)
  k, v = k.reshape(*shape, -1), v.reshape(*shape, -1)
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  logits = dense(p["beta"], x) + p.get("beta_bias", 0)
  beta = sigmoid(logits) * (1 + layer.negative_eigenvalues)
  beta = beta.reshape(shape)
  a = np.ones(shape[:2])
  if layer.decay == "head":
    a = np.exp(log_decay(p, x)[..., 0])
  out = np.zeros((*shape[:2], v.shape[-1]))
  for h in range(layer.heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      memory = a[t, h] * memory
      for key, value, b in zip(k[t, h], v[t, h], beta[t, h], strict=True):
        memory = memory + b * np.outer(key, value - memory.T @ key)
      out[t, h] = memory.T @ q[t, h]
  return read_out(p, x, out, layer)


EXAMPLES = (
  MixerExample(
    "delta_product",
    "delta_product",
    plain,
    {"heads": 2, "steps": 3, "value_width": 6},
    equation="`S_t = prod_m (I - b_{t,m} k_{t,m} k_{t,m}^T) S_{t-1} + ...`, "
    "M delta rule steps per token",
    transition="diagonal plus low rank: identity and rank M",
    paper="Siems et al. 2025, arXiv:2502.10297",
  ),
  MixerExample(
    "gated_delta_product",
    "delta_product",
    plain,
    {
      "heads": 2,
      "decay": "head",
      "output_gate": False,
      "strength_bias": 1.5,
    },
  ),
)
