"""FSMN: dilated depthwise memories with dense connections, and a gate."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, silu


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  width = x.shape[1]
  memories = [dense(p["memory"], np.maximum(dense(p["hidden"], x), 0))]
  for i in range(1, layer.layers + 1):
    taps, out = p[f"taps_{i}"], np.zeros(x.shape)
    for j, memory in enumerate(memories):
      own = taps[:, j * width : (j + 1) * width]
      for t in range(len(x)):
        for s in range(layer.kernel_width):
          past = t - s * 2 ** (i - 1)
          if past >= 0:
            out[t] += own[-1 - s] * memory[past]
    memories.append(silu(out))
  gate = dense(p["gate"], x)
  return dense(p["output"], gate * (memories[0] + memories[-1]))


EXAMPLES = (
  MixerExample(
    "fsmn",
    "fsmn",
    plain,
    {"kernel_width": 3},
    equation="`m^i_t = sum_j sum_s a^{ij}_s m^j_{t - s d_i}`, and a gate",
    transition="none: the last inputs",
    paper="Zhao et al. 2023, arXiv:2312.11825",
  ),
)
