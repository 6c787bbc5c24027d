"""RWKV-6."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, silu


def group_norm(x, p, heads, epsilon):
  """Of x [L, D], with heads as groups."""
  x = x.reshape(len(x), heads, -1)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon)
  return x.reshape(len(x), -1) * p["scale"] + p["bias"]


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  width = layer.head_width
  heads = layer.width // width
  delta = np.concatenate([np.zeros_like(x[:1]), x[:-1]]) - x
  hidden = np.tanh(dense(p["mix_down"], x + delta * p["mix_all"]))
  names = ("decay", "key", "value", "receptance", "output_gate")
  mixed = {}
  for i, name in enumerate(names):
    rank = layer.mix_rank
    share = hidden[:, i * rank : (i + 1) * rank] @ p["mix_up"][i]
    mixed[name] = x + delta * (share + p[f"mix_{name}"])
  k, v, r = (
    dense(p[name], mixed[name]).reshape(len(x), heads, width)
    for name in ("key", "value", "receptance")
  )
  low = np.tanh(dense(p["decay_down"], mixed["decay"]))
  w = np.exp(-np.exp(dense(p["decay_up"], low) + p["decay_bias"]))
  w = w.reshape(k.shape)
  bonus = p["bonus"].reshape(heads, width)
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((width, width))
    for t in range(len(x)):
      write = np.outer(k[t, h], v[t, h])
      out[t, h] = (memory + bonus[h][:, None] * write).T @ r[t, h]
      memory = w[t, h][:, None] * memory + write
  out = out.reshape(len(x), -1)
  out = group_norm(out, p["norm"], heads, layer.norm_epsilon)
  gate = silu(dense(p["output_gate"], mixed["output_gate"]))
  return dense(p["output"], gate * out)


EXAMPLES = (
  MixerExample(
    "rwkv6",
    "rwkv6",
    plain,
    {"head_width": 8, "mix_rank": 3, "decay_rank": 4},
    equation="`S_t = diag(w_t) S_{t-1} + k_t v_t^T`, `y_t = (S_{t-1} + diag(u) "
    "k_t v_t^T)^T r_t`",
    transition="diagonal",
    paper="Peng et al. 2024, arXiv:2404.05892",
  ),
)
