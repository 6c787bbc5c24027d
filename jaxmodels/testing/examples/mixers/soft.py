"""SOFT: softmax-free attention with a Gaussian kernel, by Nystrom's method."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge


def plain(p, x, layer):
  """One document x [L, D]; the inverse is that of LAPACK."""
  q, v = (
    dense(p[name], x).reshape(len(x), layer.heads, -1)
    for name in ("query", "value")
  )
  out = np.zeros(v.shape)
  most = min(len(x), layer.landmarks)
  for h in range(layer.heads):
    runs = [
      [t for t in range(len(x)) if t * most // len(x) == j] for j in range(most)
    ]
    u = np.stack([q[run, h].mean(0) for run in runs])

    def kernel(a, b):
      distance = ((a[:, None] - b[None]) ** 2).sum(-1)
      return np.exp(-distance / (2 * np.sqrt(a.shape[-1])))

    P = kernel(u, q[:, h])
    S = P.T @ np.linalg.pinv(kernel(u, u)) @ P
    scale = 1 / np.sqrt(S.sum(1))
    out[:, h] = scale[:, None] * S * scale @ v[:, h]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "soft",
    "soft",
    plain,
    {"heads": 2, "landmarks": 3},
    equation="`Y = D^(-1/2) P^T A^+ P D^(-1/2) V`, P and A Gaussian kernels "
    "with M landmarks",
    transition="none: not causal",
    paper="Lu et al. 2021, arXiv:2110.11945",
    causal=False,
  ),
)
