"""Gated slot attention: a softmax over a fixed number of slots."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
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
  heads = layer.heads
  q, k, v = (silu(y) for y in projections(p, x, heads))
  a = sigmoid(split(dense(p["forget"], x), heads)) ** (1 / layer.temperature)
  out = np.zeros(v.shape)
  for h in range(heads):
    keys, values = 0, 0
    for t in range(len(x)):
      keep, write = a[t, h][:, None], 1 - a[t, h]
      keys = keep * keys + np.outer(write, k[t, h])
      values = keep * values + np.outer(write, v[t, h])
      powers = np.exp(keys @ q[t, h])
      out[t, h] = values.T @ (powers / powers.sum())
  out = rms(silu(merge(out)), p["norm"]["scale"], layer.norm_epsilon)
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "gated_slot",
    "gated_slot",
    plain,
    {"heads": 2, "slots": 5, "temperature": 2.0},
    equation="`K_t = diag(a_t) K_{t-1} + (1 - a_t) k_t^T`, `V_t` likewise, "
    "`y_t = V_t^T softmax(K_t q_t)`",
    transition="diagonal",
    paper="Zhang et al. 2024, arXiv:2409.07146",
  ),
)
