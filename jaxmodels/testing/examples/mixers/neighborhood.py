"""Attention to tokens nearby, by lists of the tokens that each token sees."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge, projections


def nearest(place, size, layer):
  """The places seen along an axis, and their offsets in the table of biases."""
  group = range(place % layer.dilation, size, layer.dilation)
  own, most = group.index(place), layer.kernel_width
  start = max(0, min(own - most // 2, len(group) - most))
  return {
    group[j]: j - own + most - 1
    for j in range(start, min(start + most, len(group)))
  }


def around(place, size, layer):
  """The same for blocks with a halo."""
  block = place // layer.block_size * layer.block_size
  seen = range(
    max(0, block - layer.halo),
    min(size, block + layer.block_size + layer.halo),
  )
  return {s: s - place + layer.block_size + layer.halo - 1 for s in seen}


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  see = nearest if hasattr(layer, "kernel_width") else around
  q, k, v = projections(p, x, layer.heads)
  columns = layer.columns or 1
  out = np.zeros(v.shape)
  for t in range(len(x)):
    rows = see(t // columns, -(-len(x) // columns), layer)
    near = see(t % columns, columns, layer) if layer.columns else {0: 0}
    listed = [
      (row * columns + column, i, j)
      for row, i in rows.items()
      for column, j in near.items()
      if row * columns + column < len(x)
    ]
    seen = [s for s, _, _ in listed]
    for h in range(layer.heads):
      scores = k[seen, h] @ q[t, h] / np.sqrt(k.shape[-1])
      scores = scores + [p["bias"][h, i, j] for _, i, j in listed]
      weights = np.exp(scores)
      out[t, h] = weights / weights.sum() @ v[seen, h]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "neighborhood_attention",
    "neighborhood_attention",
    plain,
    {"heads": 2, "kernel_width": 3, "dilation": 2},
    equation="`y_t = sum_s softmax_s(q_t . k_s) v_s` over the nearest tokens "
    "on both sides, 1-D or 2-D",
    transition="none: not causal",
    paper="Hassani et al. 2022, arXiv:2204.07143",
    causal=False,
  ),
  MixerExample(
    "halo_attention",
    "halo_attention",
    plain,
    {"heads": 2, "block_size": 2, "halo": 1, "columns": 4},
    equation="softmax attention over a block and a halo around it, 1-D or 2-D",
    transition="none: not causal",
    paper="Vaswani et al. 2021, arXiv:2103.12731",
    causal=False,
  ),
)
