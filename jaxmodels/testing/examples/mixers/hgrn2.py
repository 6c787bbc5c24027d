"""HGRN2: a gated linear RNN with an expanded state."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  rms,
  sigmoid,
  silu,
)


def plain(p, x, layer, bound=0.0):
  """One document x [L, D], token by token, with a lower bound [H K] or 0."""

  def heads(name):
    y = dense(p[name], x)
    if layer.kernel_width is not None:
      y = convolve(p[f"{name}_convolution"], y, lambda y: y)
    return y.reshape(len(x), layer.heads, -1)

  q, f, i = (heads(name) for name in ("query", "forget", "input"))
  bound = np.reshape(bound, (-1, f.shape[-1]) if np.ndim(bound) else ())
  f = bound + (1 - bound) * sigmoid(f)
  out = np.zeros(i.shape)
  for h in range(layer.heads):
    memory = np.zeros((f.shape[-1], i.shape[-1]))
    for t in range(len(x)):
      memory = f[t, h][:, None] * memory + np.outer(1 - f[t, h], i[t, h])
      out[t, h] = memory.T @ silu(q[t, h]) / np.sqrt(f.shape[-1])
  scale = p["norm"]["scale"] if layer.norm_scale else 1
  out = rms(out.reshape(len(x), -1), scale, layer.norm_epsilon)
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "hgrn2",
    "hgrn2",
    plain,
    {"heads": 2, "key_width": 6},
    equation="`S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T`, f_t above the lower "
    "bound of the layer",
    transition="diagonal",
    paper="Qin et al. 2024, arXiv:2404.07904",
  ),
  MixerExample(
    "hgrn2_options",
    "hgrn2",
    plain,
    {"heads": 2, "kernel_width": 3, "norm_scale": False},
  ),
)
