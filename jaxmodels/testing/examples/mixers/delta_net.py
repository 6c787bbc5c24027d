"""The delta rule: DeltaNet, Gated DeltaNet 1 and 2, and KDA."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  gelu,
  log_decay,
  read_out,
  rms,
  sigmoid,
  silu,
  split,
  unit,
)

ACTIVATIONS = {
  "silu": silu,
  "gelu_tanh": gelu,
  "elu_plus_one": lambda x: np.where(x > 0, x + 1, np.exp(x)),
}


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  keys = layer.key_heads or layer.heads, ACTIVATIONS[layer.qk_activation]
  q, k = _heads(p, x, "query", *keys), _heads(p, x, "key", *keys)
  activation = ACTIVATIONS[layer.value_activation]
  v = _heads(p, x, "value", layer.heads, activation)
  norm = unit if layer.qk_norm == "l2" else _over_sum
  shared = np.arange(layer.heads) * keys[0] // layer.heads
  q, k = norm(q)[:, shared] / np.sqrt(k.shape[-1]), norm(k)[:, shared]
  erase, write = _gates(p, x, k, v, 1 + layer.negative_eigenvalues)
  a = np.ones(k.shape)
  if layer.decay_bound is not None:
    a = np.exp(_bounded(p, x, layer.decay_bound)) * a
  elif layer.decay != "none":
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
  return _read_out(p, x, out, layer)


def _heads(p, x, name, count, activation):
  """Queries, keys or values of all tokens, [L, count, F]."""
  y = dense(p[name], x)
  if f"{name}_convolution" not in p:
    return split(activation(y), count)
  return split(convolve(p[f"{name}_convolution"], y, activation), count)


def _over_sum(x):
  """Vectors whose absolute values sum to 1."""
  return x / np.abs(x).sum(-1, keepdims=True)


def _bounded(p, x, bound):
  """The log decay between the bound and 0, [L, H, K]."""
  x = dense(p["decay"], dense(p["decay_down"], x)) + p["dt_bias"]
  rate = np.exp(p["A_log"])[:, None]
  return bound * sigmoid(rate * split(x, len(p["A_log"])))


def _read_out(p, x, out, layer):
  """The norm, the gate if there is one, and the output projection."""
  name = layer.output_gate_activation
  if name is None:
    name = "sigmoid" if layer.decay == "key" else "silu"
  gate = {"sigmoid": sigmoid, "silu": silu}[name]
  if "output_gate_down" not in p:
    return read_out(p, x, out, layer, gate)
  y = rms(out, p["norm"]["scale"], layer.norm_epsilon).reshape(len(x), -1)
  logits = dense(p["output_gate"], dense(p["output_gate_down"], x))
  return dense(p["output"], y * gate(logits))


def _gates(p, x, k, v, largest):
  """The erase gate [L, H, K] and the write gate [L, H, V]."""
  if "erase" not in p:
    beta = np.array(largest)
    if "beta" in p:
      logits = dense(p["beta"], x) + p.get("beta_bias", 0)
      beta = largest * sigmoid(logits)[:, :, None]
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
      "strength_bias": 1.5,
      "value_width": 6,
      "key_width": 8,
      "norm_epsilon": 1e-2,
    },
  ),
  MixerExample(
    "delta_net_options",
    "delta_net",
    plain,
    {
      "heads": 2,
      "key_heads": 1,
      "value_width": 6,
      "qk_activation": "elu_plus_one",
      "value_activation": "gelu_tanh",
      "qk_norm": "sum",
      "write_strength": False,
      "convolution_bias": True,
      "output_gate": True,
      "output_gate_activation": "sigmoid",
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
    "kda_options",
    "kda",
    plain,
    {
      "heads": 4,
      "key_heads": 2,
      "decay_bound": -5.0,
      "output_gate_rank": 3,
      "output_gate_bias": True,
      "kernel_width": None,
    },
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
