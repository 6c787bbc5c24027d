"""Linear attention with a feature map, and Based."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  softmax,
)


def _taylor(x):
  x = x / x.shape[-1] ** 0.25
  products = [np.outer(u, u).ravel() for u in x]
  return np.concatenate([np.ones((len(x), 1)), x, products / np.sqrt(2)], -1)


def _dpfp(x):
  r = np.maximum(np.concatenate([x, -x], -1), 0)
  return np.stack([r[:, i] * r[:, i - 1] for i in range(r.shape[-1])], -1)


MAPS = {
  "identity": lambda x: x,
  "elu_plus_one": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
  "relu": lambda x: np.maximum(x, 0),
  "softmax": softmax,
  "taylor": _taylor,
  "dpfp": _dpfp,
}


def _mapped(p, name, x, layer):
  """The features of one head's x [L, K] in order, for one head's map p."""
  if layer.feature_map == "hedgehog":
    y = x @ p[f"{name}_map"]
    return softmax(np.concatenate([y, -y], -1))
  if layer.feature_map == "cosformer":
    angle = np.pi / 2 * np.arange(len(x))[:, None] / layer.horizon
    x = np.maximum(x, 0)
    return np.concatenate([x * np.cos(angle), x * np.sin(angle)], -1)
  return MAPS[layer.feature_map](x)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads = layer.heads
  q, k, v = projections(p, x, heads)
  out = np.zeros(v.shape)
  for h in range(heads):
    own = {name: p[name]["kernel"][h] for name in p if name.endswith("_map")}
    features = _mapped(own, "query", q[:, h], layer)
    keys = _mapped(own, "key", k[:, h], layer)
    memory, total = np.zeros(()), np.zeros(())
    for t in range(len(x)):
      memory = memory + np.outer(keys[t], v[t, h])
      total = total + keys[t]
      out[t, h] = memory.T @ features[t]
      if layer.normalize:
        out[t, h] /= max(abs(total @ features[t]), layer.floor)
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "linear_attention",
    "linear_attention",
    plain,
    {"heads": 2},
    equation="`S_t = S_{t-1} + phi(k_t) v_t^T`, divided by a normaliser; any "
    "feature map phi",
    transition="scalar: 1",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236",
  ),
  MixerExample(
    "based",
    "based",
    plain,
    {"heads": 2, "key_width": 3},
    equation="`linear_attention` with the Taylor series of exp to second order",
    transition="scalar: 1",
    paper="Arora et al. 2024, arXiv:2402.18668",
  ),
)
