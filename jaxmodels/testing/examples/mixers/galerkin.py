"""Galerkin attention: linear attention over a whole domain."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge, projections


def _norm(p, x, epsilon):
  x = x - x.mean(-1, keepdims=True)
  y = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
  return y * p["scale"] + p["bias"]


def plain(p, x, layer):
  """One document x [L, D]."""
  q, k, v = projections(p, x, layer.heads)
  k = _norm(p["key_norm"], k, layer.norm_epsilon)
  v = _norm(p["value_norm"], v, layer.norm_epsilon)
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    mean = sum(np.outer(v[s, h], k[s, h]) for s in range(len(x))) / len(x)
    for t in range(len(x)):
      out[t, h] = mean @ q[t, h]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "galerkin",
    "galerkin",
    plain,
    {"heads": 2},
    equation="`y_t = (1/n sum_s v_s k_s^T) q_t`, with a norm of k and v",
    transition="none: not causal",
    paper="Cao 2021, arXiv:2105.14995",
    causal=False,
  ),
)
