"""The delta rule: DeltaNet, Gated DeltaNet 1 and 2, and KDA."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolved,
  dense,
  log_decay,
  read_out,
  sigmoid,
  silu,
  unit,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  q, k, v = convolved(p, x, layer.heads)
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  erase, write = _gates(p, x, k, v, 1 + layer.negative_eigenvalues)
  a = np.ones(k.shape)
  if layer.decay != "none":
    a = np.exp(log_decay(p, x)) * a
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      key = k[t, h]
      keep = np.eye(len(key)) - np.outer(key, erase[t, h] * key)
      memory = keep @ np.diag(a[t, h]) @ memory
      memory = memory + np.outer(key, write[t, h] * v[t, h])
      out[t, h] = memory.T @ q[t, h]
  gate = sigmoid if layer.decay == "key" else silu
  return read_out(p, x, out, layer, gate)


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
    transition="diagonal plus low rank: identity and rank one",
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
    transition="diagonal plus low rank: scalar and rank one",
    paper="Yang et al. 2024, arXiv:2412.06464",
  ),
  MixerExample(
    "kda",
    "kda",
    plain,
    {"negative_eigenvalues": True, "gate_rank": 3},
    equation="`S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T`",
    transition="diagonal plus low rank: rank one",
    paper="Kimi Team 2025, arXiv:2510.26692",
  ),
  MixerExample(
    "gated_deltanet2",
    "gated_deltanet2",
    plain,
    {"heads": 2, "value_width": 6, "negative_eigenvalues": True},
    equation="`S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * "
    "v_t)^T`",
    transition="diagonal plus low rank: rank one",
    paper="Hatamizadeh et al. 2026, arXiv:2605.22791",
  ),
)
