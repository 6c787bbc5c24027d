"""Both directions: LION, and any causal mixer from both ends."""

import numpy as np

from jaxmodels.mixers.gla import GLA
from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers import gla
from jaxmodels.testing.examples.mixers.linear_attention import MAPS
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  sigmoid,
)


def plain(p, x, layer):
  """One document x [L, D], by the masked product."""
  heads, phi = layer.heads, MAPS[layer.feature_map]
  q, k, v = projections(p, x, heads)
  decay = np.ones((len(x), heads))
  if layer.decay != "none":
    logits = p["decay_bias"] + np.zeros(decay.shape)
    if layer.decay == "selective":
      logits = logits + dense(p["decay_logits"], x)
    decay = sigmoid(logits)
  out = np.zeros(v.shape)
  for h in range(heads):
    for t in range(len(x)):
      weights = np.zeros(len(x))
      for s in range(len(x)):
        # From s towards t, s included and t not.
        path = range(s, t) if s < t else range(t + 1, s + 1)
        kept = np.prod([decay[i, h] for i in path])
        weights[s] = kept * (phi(q[t, h]) @ phi(k[s, h]))
      out[t, h] = weights / weights.sum() @ v[:, h]
  return dense(p["output"], merge(out))


def plain_both(p, x, layer):
  """One document x [L, D], of GLA from both ends."""
  ahead, back = (
    (p["both"], p["both"]) if layer.tied else (p["ahead"], p["back"])
  )
  return (
    gla.plain(ahead, x, layer.mixer)
    + gla.plain(back, x[::-1], layer.mixer)[::-1]
  )


EXAMPLES = (
  MixerExample(
    "lion",
    "lion",
    plain,
    {"heads": 2},
    equation="`Y = rownorm(phi(Q) phi(K)^T * M) V`, decays M in both "
    "directions",
    transition="scalar: in both directions",
    paper="Afzal et al. 2025, arXiv:2502.16249",
    causal=False,
  ),
  MixerExample(
    "bidirectional",
    "bidirectional",
    plain_both,
    {"mixer": GLA(16, heads=2, gate_rank=2)},
    equation="the sum of a causal mixer and of itself in reverse",
    transition="inherited: its mixer's, in both directions",
    paper="Zhu et al. 2024, arXiv:2401.09417",
    causal=False,
  ),
)
