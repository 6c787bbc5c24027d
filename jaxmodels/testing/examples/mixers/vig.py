"""ViG: gated linear attention for images."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.cross_scan import depthwise
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
  """One image x [L, D], with a loop from each end."""
  heads, epsilon = layer.heads, layer.norm_epsilon
  u = silu(depthwise(p["convolution"], x, layer.columns))
  q, k, v = projections(p, u, heads)
  gates = sigmoid(dense(p["decay_up"], dense(p["decay_down"], u)))
  gates = split(gates ** (1 / layer.temperature), 2 * heads)
  total = np.zeros(v.shape)
  for h in range(heads):
    for gate, order in (
      (gates[:, h], range(len(x))),
      (gates[:, heads + h], reversed(range(len(x)))),
    ):
      memory = np.zeros((k.shape[-1], v.shape[-1]))
      for t in order:
        memory = gate[t][:, None] * memory + np.outer(k[t, h], v[t, h])
        total[t, h] += memory.T @ q[t, h] / np.sqrt(k.shape[-1]) / 2
  far = rms(total, p["norm"]["scale"], epsilon)
  near = rms(split(u, heads), p["local_norm"]["scale"], epsilon)
  g = split(sigmoid(dense(p["mix_gate"], u)), heads)
  return dense(p["output"], merge(g * far + (1 - g) * near))


EXAMPLES = (
  MixerExample(
    "vig",
    "vig",
    plain,
    {"gate_rank": 2},
    equation="GLA in both directions with a gate for each, "
    "`g * o + (1 - g) * SiLU(conv(x))` in 2-D",
    transition="diagonal: in both directions",
    paper="Liao et al. 2024, arXiv:2405.18425",
    causal=False,
  ),
)
