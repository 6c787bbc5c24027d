"""TransNormer: linear attention with a norm, and softmax inside of blocks."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.linear_attention import MAPS
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  rms,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  q, k, v = projections(p, x, layer.heads)
  phi = MAPS[layer.feature_map]
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    memory = np.zeros(())
    for t in range(len(x)):
      memory = memory + np.outer(phi(k[t, h]), v[t, h])
      out[t, h] = memory.T @ phi(q[t, h])
  out = rms(merge(out), p["norm"]["scale"], layer.norm_epsilon)
  return dense(p["output"], out)


def plain_blocks(p, x, layer):
  """One document x [L, D], token by token."""
  q, k, v = projections(p, x, layer.heads)
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    for t in range(len(x)):
      seen = slice(t - t % layer.block_size, t + 1)
      scores = k[seen, h] @ q[t, h] / np.sqrt(k.shape[-1])
      weights = np.exp(scores - scores.max())
      out[t, h] = weights / weights.sum() @ v[seen, h]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "transnormer",
    "transnormer",
    plain,
    {"heads": 2},
    equation="`S_t = S_{t-1} + phi(k_t) v_t^T`, `y_t = RMSNorm(S_t^T "
    "phi(q_t))`",
    transition="scalar: 1",
    paper="Qin et al. 2022, arXiv:2210.10340",
  ),
  MixerExample(
    "diag_attention",
    "diag_attention",
    plain_blocks,
    {"heads": 2, "block_size": 5},
    equation="`y_t = sum_s softmax_s(q_t . k_s) v_s` inside of its block",
    transition="none: a cache of `block_size - 1` tokens",
    paper="Qin et al. 2022, arXiv:2210.10340",
  ),
)
