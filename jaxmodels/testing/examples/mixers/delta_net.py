"""The delta rule: DeltaNet, Gated DeltaNet 1 and 2, and KDA."""

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
  """One document x [L, D], token by token."""
  heads = layer.heads
  q, k, v = (
    convolve(p[f"{name}_convolution"], dense(p[name], x)).reshape(
      len(x), heads, -1
    )
    for name in ("query", "key", "value")
  )
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  erase, write = _gates(p, x, k, v, 1 + layer.negative_eigenvalues)
  a = np.ones(k.shape)
  if layer.decay != "none":
    low = dense(p["decay_down"], x) if layer.decay == "key" else x
    step = softplus(dense(p["decay"], low) + p["dt_bias"])
    step = step.reshape(len(x), heads, -1)
    a = np.exp(-np.exp(p["A_log"])[:, None] * step) * a
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      key = k[t, h]
      keep = np.eye(len(key)) - np.outer(key, erase[t, h] * key)
      memory = keep @ np.diag(a[t, h]) @ memory
      memory = memory + np.outer(key, write[t, h] * v[t, h])
      y = memory.T @ q[t, h]
      out[t, h] = rms(y, p["norm"]["scale"], layer.norm_epsilon)
  out = out.reshape(len(x), -1)
  if layer.output_gate:
    gate = dense(p["output_gate"], x)
    out = out * (sigmoid(gate) if layer.decay == "key" else silu(gate))
  return dense(p["output"], out)


def _gates(p, x, k, v, largest):
  """The erase gate [L, H, K] and the write gate [L, H, V]."""
  if "beta" in p:
    beta = largest * sigmoid(dense(p["beta"], x))[:, :, None]
    return beta * np.ones(k.shape), beta * np.ones(v.shape)
  erase = largest * sigmoid(dense(p["erase"], x))
  return erase.reshape(k.shape), sigmoid(dense(p["write"], x)).reshape(v.shape)


EXAMPLES = (
  MixerExample(
    "delta_net",
    "delta_net",
    plain,
    {"heads": 2},
    equation="`S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`",
    transition="identity minus rank one",
    paper="Yang et al. 2024, arXiv:2406.06484",
  ),
  MixerExample(
    "delta_net_negative",
    "delta_net",
    plain,
    {
      "negative_eigenvalues": True,
      "value_width": 6,
      "key_width": 8,
      "norm_epsilon": 1e-2,
    },
  ),
  MixerExample(
    "gated_deltanet",
    "gated_deltanet",
    plain,
    {"heads": 2},
    equation="`S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T`",
    transition="scalar times identity minus rank one",
    paper="Yang et al. 2024, arXiv:2412.06464",
  ),
  MixerExample(
    "kda",
    "kda",
    plain,
    {"negative_eigenvalues": True, "gate_rank": 3},
    equation="`S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T`",
    transition="diagonal plus rank one",
    paper="Kimi Team 2025, arXiv:2510.26692",
  ),
  MixerExample(
    "gated_deltanet2",
    "gated_deltanet2",
    plain,
    {"heads": 2, "value_width": 6, "negative_eigenvalues": True},
    equation="`S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * "
    "v_t)^T`",
    transition="diagonal plus rank one",
    paper="Hatamizadeh et al. 2026, arXiv:2605.22791",
  ),
)
