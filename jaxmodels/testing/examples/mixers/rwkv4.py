"""RWKV-4."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  del layer
  before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])

  def mapped(name):
    mu = p[f"mix_{name}"]
    return dense(p[name], mu * x + (1 - mu) * before)

  k, v, r = (mapped(name) for name in ("key", "value", "receptance"))
  decay = np.exp(-np.exp(p["decay"]))
  out = np.zeros(v.shape)
  total, weights = np.zeros(v.shape[-1]), np.zeros(v.shape[-1])
  for t in range(len(x)):
    own = np.exp(p["bonus"] + k[t])
    out[t] = (total + own * v[t]) / (weights + own)
    total = decay * total + np.exp(k[t]) * v[t]
    weights = decay * weights + np.exp(k[t])
  return dense(p["output"], sigmoid(r) * out)


EXAMPLES = (
  MixerExample(
    "rwkv4",
    "rwkv4",
    plain,
    {"inner_width": 12},
    equation="`S_t = e^-w S_{t-1} + e^{k_t} v_t` per channel, read before it "
    "decays, with a bonus, and divided by a normaliser",
    transition="diagonal: fixed",
    paper="Peng et al. 2023, arXiv:2305.13048",
  ),
)
