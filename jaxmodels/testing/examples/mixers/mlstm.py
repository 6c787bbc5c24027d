"""The mLSTM of xLSTM."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token; in float64 without a stabiliser."""
  heads = layer.heads
  q, k, v = (
    dense(p[name], x).reshape(len(x), heads, -1)
    for name in ("query", "key", "value")
  )
  gates = (
    dense(p[name], x) + p[f"{name}_bias"]
    for name in ("input_gate", "forget_gate")
  )
  if layer.gate_cap is not None:
    gates = (layer.gate_cap * np.tanh(x / layer.gate_cap) for x in gates)
  i, f = gates
  i, f = np.exp(i), sigmoid(f)
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    normaliser = np.zeros(k.shape[-1])
    for t in range(len(x)):
      key = k[t, h] / np.sqrt(k.shape[-1])
      memory = f[t, h] * memory + i[t, h] * np.outer(key, v[t, h])
      normaliser = f[t, h] * normaliser + i[t, h] * key
      y = memory.T @ q[t, h] / max(abs(normaliser @ q[t, h]), 1)
      y = y - y.mean()
      out[t, h] = y / np.sqrt(np.mean(y * y) + layer.norm_epsilon)
  out = out.reshape(len(x), -1) * p["norm"]["scale"] + p["norm"]["bias"]
  return dense(p["output"], out * sigmoid(dense(p["output_gate"], x)))


EXAMPLES = (
  MixerExample(
    "mlstm",
    "mlstm",
    plain,
    {"heads": 2, "gate_cap": 4.0},
    equation="`S_t = f_t S_{t-1} + i_t k_t v_t^T`, read over its normaliser, "
    "i_t an exponential",
    transition="scalar",
    paper="Beck et al. 2024, arXiv:2405.04517",
  ),
)
