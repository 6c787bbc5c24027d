"""Polyline path masked attention: softmax attention with decays in 2-D."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  sigmoid,
)


def path(across, down, start, end):
  """The product of the decays along the row of the start, then the column."""
  (row, column), (last_row, last_column) = start, end
  product = 1.0
  left, right = sorted((column, last_column))
  for c in range(left + 1, right + 1):
    product *= across[row, c]
  top, bottom = sorted((row, last_row))
  for r in range(top + 1, bottom + 1):
    product *= down[r, last_column]
  return product


def plain(p, x, layer):
  """One image x [L, D], place by place."""
  q, k, v = projections(p, x, layer.heads)
  grid = (-1, layer.columns, layer.heads)
  down = sigmoid(dense(p["down"], x) + 2).reshape(grid)
  across = np.ones(down.shape)
  if layer.columns > 1:
    across = sigmoid(dense(p["across"], x) + 2).reshape(grid)
  places = list(np.ndindex(across.shape[:2]))
  out = np.zeros(v.shape)
  for h in range(layer.heads):
    steps = across[..., h], down[..., h]
    for t, a in enumerate(places):
      weights = np.exp(k[:, h] @ q[t, h] / np.sqrt(k.shape[-1]))
      mask = [(path(*steps, a, b) + path(*steps, b, a)) / 2 for b in places]
      out[t, h] = weights / weights.sum() * mask @ v[:, h]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "polyline_attention",
    "polyline_attention",
    plain,
    {"heads": 2},
    equation="`Y = (softmax(Q K^T) * M) V`, M the mean of the decays along "
    "both polylines between two places of a grid",
    transition="none: not causal",
    paper="Zhao et al. 2025, arXiv:2506.15940",
    causal=False,
  ),
)
