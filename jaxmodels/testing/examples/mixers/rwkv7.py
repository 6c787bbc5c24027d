"""RWKV-7."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, sigmoid
from jaxmodels.testing.examples.mixers.rwkv6 import group_norm


def plain(p, x, layer, first_value=None):
  """One document x [L, D], token by token; with the first layer's value."""
  width = layer.head_width
  heads = layer.width // width
  before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])

  def mixed(name):
    return x + (before - x) * p[f"mix_{name}"]

  def low_rank(name, inputs, activation=lambda x: x):
    low = activation(dense(p[f"{name}_down"], inputs))
    return dense(p[f"{name}_up"], low) + p.get(f"{name}_bias", 0)

  def split(x):
    return x.reshape(len(x), heads, width)

  r, k = (dense(p[name], mixed(name)) for name in ("receptance", "key"))
  v = dense(p["value"], mixed("value"))
  if first_value is not None:
    v = v + (first_value - v) * sigmoid(low_rank("value", mixed("value")))
  w = np.exp(-sigmoid(low_rank("decay", mixed("decay"), np.tanh)) / np.e**0.5)
  a = sigmoid(low_rank("rate", mixed("rate")))
  gate = low_rank("gate", mixed("output_gate"), sigmoid)
  kappa = split(k * p["xi"])
  kappa = kappa / np.sqrt((kappa**2).sum(-1, keepdims=True) + layer.key_epsilon)
  k = k * (1 + (a - 1) * p["alpha"])
  bonus = split(r * k * p["rho"]).sum(-1, keepdims=True) * split(v)
  r, k, v, w, a = (split(x) for x in (r, k, v, w, a))
  rate = (1 + w) * a if layer.negative_eigenvalues else a
  out = np.zeros(v.shape)
  for h in range(heads):
    # As in the paper: values by keys, the transpose of the layer's state.
    memory = np.zeros((width, width))
    for t in range(len(x)):
      removal = np.outer(kappa[t, h], rate[t, h] * kappa[t, h])
      memory = memory @ (np.diag(w[t, h]) - removal)
      memory = memory + np.outer(v[t, h], k[t, h])
      out[t, h] = memory @ r[t, h]
  out = out.reshape(len(x), -1)
  out = group_norm(out, p["norm"], heads, layer.norm_epsilon)
  return dense(p["output"], gate * (out + bonus.reshape(len(x), -1)))


EXAMPLES = (
  MixerExample(
    "rwkv7",
    "rwkv7",
    plain,
    {"head_width": 8, "decay_rank": 3, "rate_rank": 4, "gate_rank": 5},
    equation="`S_t = (diag(w_t) - (a_t * c_t) c_t^T) S_{t-1} + k_t v_t^T`, c_t "
    "of norm 1",
    transition="diagonal plus low rank: rank one",
    paper="Peng et al. 2025, arXiv:2503.14456",
  ),
  MixerExample(
    "rwkv7_negative",
    "rwkv7",
    plain,
    {
      "head_width": 8,
      "decay_rank": 2,
      "rate_rank": 2,
      "gate_rank": 2,
      "negative_eigenvalues": True,
    },
  ),
)
