"""Mixture of memories, over the delta rule or linear attention."""

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
  """One document x [L, D], token by token, memory by memory."""
  count = layer.memories + layer.shared_memory
  shape = len(x), layer.heads, count
  q, k, v = convolved(p, x, layer.heads)
  k, v = unit(k.reshape(*shape, -1)), v.reshape(*shape, -1)
  q = unit(q) / np.sqrt(k.shape[-1])
  a = np.ones(k.shape)
  if layer.decay != "none":
    a = np.exp(log_decay(p, x)).reshape(*shape, -1) * a
  delta = layer.rule != "linear_attention"
  erase, write = np.ones(k.shape), np.ones(v.shape)
  if layer.rule == "delta_rule_gates":
    erase = sigmoid(dense(p["erase"], x)).reshape(k.shape)
    write = sigmoid(dense(p["write"], x)).reshape(v.shape)
  elif delta:
    beta = sigmoid(dense(p["beta"], x)).reshape(*shape, 1)
    erase, write = beta * erase, beta * write
  out = np.zeros((*shape[:2], v.shape[-1]))
  for h in range(layer.heads):
    memory = np.zeros((count, k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      read = 0
      for m, weight in _routes(p, x[t], layer):
        kept, at = a[t, h, m][:, None] * memory[m], (t, h, m)
        old = kept.T @ (erase[at] * k[at]) if delta else 0
        memory[m] = kept + np.outer(k[at], write[at] * v[at] - old)
        read = read + weight * memory[m].T @ q[t, h]
      out[t, h] = read
  gate = sigmoid if layer.decay == "key" else silu
  return read_out(p, x, out, layer, gate)


def _routes(p, u, layer):
  """The memories of one token, and their weights."""
  scores = np.exp(dense(p["router"], u))
  chosen = np.argsort(-scores)[: layer.top_k]
  routes = [(m, scores[m] / scores[chosen].sum()) for m in chosen]
  return [*routes, (layer.memories, 1.0)] if layer.shared_memory else routes


EXAMPLES = (
  MixerExample(
    "mixture_of_memories",
    "mixture_of_memories",
    plain,
    {"heads": 2, "memories": 3, "value_width": 6},
    equation="`S^m_t = rule(S^m_{t-1}, x_t)` for the top k of M memories and "
    "a shared one, `y_t = sum_m g^m_t S^m_t^T q_t`",
    transition="inherited: its rule's",
    paper="Du et al. 2025, arXiv:2502.13685",
  ),
  MixerExample(
    "mixture_of_memories_linear",
    "mixture_of_memories",
    plain,
    {
      "heads": 2,
      "memories": 3,
      "shared_memory": False,
      "rule": "linear_attention",
      "decay": "key",
      "gate_rank": 3,
    },
  ),
  MixerExample(
    "mixture_of_memories_gates",
    "mixture_of_memories",
    plain,
    {"heads": 2, "memories": 3, "rule": "delta_rule_gates"},
  ),
)
