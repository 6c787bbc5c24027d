"""DeltaProduct: several delta rule steps per token."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  rms,
  sigmoid,
  silu,
  softplus,
  unit,
)


def plain(p, x, layer):
  """One document x [L, D], token by token and step by step."""
  shape = len(x), layer.heads, layer.steps
  q, k, v = (
    convolve(p[f"{name}_convolution"], dense(p[name], x))
    for name in ("query", "key", "value")
  )
  q, k, v = (
    q.reshape(*shape[:2], -1),
    k.reshape(*shape, -1),
    v.reshape(*shape, -1),
  )
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  beta = sigmoid(dense(p["beta"], x)) * (1 + layer.negative_eigenvalues)
  beta = beta.reshape(shape)
  a = np.ones(shape[:2])
  if layer.decay == "head":
    step = softplus(dense(p["decay"], x) + p["dt_bias"])
    a = np.exp(-np.exp(p["A_log"]) * step)
  out = np.zeros((*shape[:2], v.shape[-1]))
  for h in range(layer.heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      memory = a[t, h] * memory
      for key, value, b in zip(k[t, h], v[t, h], beta[t, h], strict=True):
        memory = memory + b * np.outer(key, value - memory.T @ key)
      y = memory.T @ q[t, h]
      out[t, h] = rms(y, p["norm"]["scale"], layer.norm_epsilon)
  out = out.reshape(len(x), -1)
  if layer.output_gate:
    out = out * silu(dense(p["output_gate"], x))
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "delta_product",
    "delta_product",
    plain,
    {"heads": 2, "steps": 3, "value_width": 6},
    equation="`S_t = prod_m (I - b_{t,m} k_{t,m} k_{t,m}^T) S_{t-1} + ...`, "
    "M delta rule steps per token",
    transition="product of M matrices, identity minus rank one",
    paper="Siems et al. 2025, arXiv:2502.10297",
  ),
  MixerExample(
    "gated_delta_product",
    "delta_product",
    plain,
    {"heads": 2, "decay": "head", "output_gate": False},
  ),
)
