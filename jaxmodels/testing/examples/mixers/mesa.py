"""MesaNet, with a direct solve per token."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolved,
  dense,
  read_out,
  sigmoid,
  softplus,
  split,
  unit,
)


def plain(p, x, layer):
  """One document x [L, D], token by token, as weighted least squares."""
  heads = layer.heads
  q, k = convolved(p, x, heads, ("query", "key"))
  q, k, v = unit(q), unit(k), split(dense(p["value"], x), heads)
  a, beta = sigmoid(dense(p["decay"], x)), sigmoid(dense(p["beta"], x))
  ridge = layer.lower_bound + softplus(p["regularisation"])
  out = np.zeros(v.shape)
  for h in range(heads):
    for t in range(len(x)):
      past = slice(t + 1)
      decay = [np.prod(a[s + 1 : t + 1, h]) for s in range(t + 1)]
      weighted = (decay * beta[past, h])[:, None] * k[past, h]
      least = weighted.T @ k[past, h] + np.diag(ridge[h])
      out[t, h] = v[past, h].T @ weighted @ np.linalg.solve(least, q[t, h])
  return read_out(p, x, out, layer)


EXAMPLES = (
  MixerExample(
    "mesa",
    "mesa",
    plain,
    {"heads": 2, "value_width": 6, "output_gate": True},
    equation="`y_t = G_t^T (H_t + diag(lambda))^{-1} q_t`, `H_t = a_t H_{t-1} "
    "+ b_t k_t k_t^T`, `G_t = a_t G_{t-1} + b_t k_t v_t^T`",
    transition="scalar: read through an inverse",
    paper="von Oswald et al. 2025, arXiv:2506.05233",
  ),
)
