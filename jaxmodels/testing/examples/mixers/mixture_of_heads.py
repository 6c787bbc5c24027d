"""Mixture-of-head attention: each token chooses some of the heads."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers import softmax_attention
from jaxmodels.testing.examples.mixers.parts import dense, merge, softmax


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  eye = {"kernel": np.eye(p["output"]["kernel"].shape[0])}
  heads = softmax_attention.plain({**p, "output": eye}, x, layer)
  heads = heads.reshape(len(x), layer.heads, -1)
  shared, most = layer.shared_heads, layer.active_heads
  out = np.zeros(heads.shape)
  for t in range(len(x)):
    a, b = 2 * softmax(dense(p["stage_router"], x[t]))
    weights = np.zeros(layer.heads)
    weights[:shared] = a
    if shared > 1:
      share = softmax(dense(p["shared_router"], x[t]))
      weights[:shared] = a * shared * share
    scores = softmax(dense(p["router"], x[t]))
    best = np.argsort(-scores)[:most]
    weights[shared + best] = b * most * scores[best] / scores[best].sum()
    out[t] = weights[:, None] * heads[t]
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "mixture_of_heads",
    "mixture_of_heads",
    plain,
    {"max_length": 50, "heads": 8, "shared_heads": 2, "active_heads": 3},
    equation="`y_t = sum_h g_{t,h} W_h y_{t,h}`, `y_{t,h}` a head of softmax "
    "attention; most `g` are 0",
    transition="none: a cache of all tokens",
    paper="Jin et al. 2024, arXiv:2410.11842",
  ),
)
