"""Log-linear attention: a sum over all earlier tokens, by their levels."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolved,
  dense,
  log_decay,
  read_out,
  sigmoid,
  softplus,
  split,
  unit,
)


def plain(p, x, layer):
  """One document x [L, D]: each token reads the writes of all before it."""
  q, k, v = convolved(p, x, layer.heads)
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  delta = layer.rule == "delta_rule"
  beta = sigmoid(dense(p["beta"], x)) if delta else np.ones(k.shape[:2])
  a = np.exp(log_decay(p, x)[..., 0])
  scale = split(dense(p["scale"], x), layer.heads)
  scale = softplus(p["scale_factor"] * scale)
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    # The write of each earlier token, as later tokens have changed it.
    writes: list[np.ndarray] = []
    for t in range(len(x)):
      key = k[t, h]
      erase = np.eye(len(key)) - delta * beta[t, h] * np.outer(key, key)
      writes = [a[t, h] * erase @ write for write in writes]
      writes.append(beta[t, h] * np.outer(key, v[t, h]))
      out[t, h] = sum(
        scale[t, h, _level(t, s, layer.levels)] * write.T @ q[t, h]
        for s, write in enumerate(writes)
      )
  return read_out(p, x, out, layer)


def _level(t, s, levels):
  """0 at t itself; else the range of s in the binary expansion of t."""
  level, end = 0, t
  while s < end:  # Ranges before t, from the last one: its lowest bit first.
    bit = end & -end
    level, end = bit.bit_length(), end - bit
  return min(level, levels)


EXAMPLES = (
  MixerExample(
    "log_linear",
    "log_linear",
    plain,
    {"heads": 2, "levels": 4, "value_width": 6},
    equation="`y_t = sum_l scale_{t,l} S_{t,l}^T q_t`, one state per Fenwick "
    "level of Gated DeltaNet or of linear attention",
    transition="inherited: its rule's",
    paper="Guo et al. 2025, arXiv:2506.04761",
  ),
  MixerExample(
    "log_linear_attention",
    "log_linear",
    plain,
    {"heads": 2, "levels": 3, "rule": "linear_attention"},
  ),
)
