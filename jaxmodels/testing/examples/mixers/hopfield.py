"""Hopfield layer: associative memory with a continuous state."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge, softmax


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  xi = dense(p["query"], x).reshape(len(x), layer.heads, -1)
  beta = layer.beta or xi.shape[-1] ** -0.5
  if layer.patterns:
    keys, values = p["patterns"], p["values"]
  else:
    keys, values = (
      dense(p[name], x).reshape(xi.shape) for name in ("key", "value")
    )
  out = np.zeros(xi.shape)
  for t in range(len(x)):
    seen = slice(None)
    if not layer.patterns:
      seen = slice(max(0, t + 1 - layer.window), t + 1)
    for h in range(layer.heads):
      state = xi[t, h]
      for _ in range(layer.steps):
        state = keys[seen, h].T @ softmax(beta * keys[seen, h] @ state)
      out[t, h] = values[seen, h].T @ softmax(beta * keys[seen, h] @ state)
  return dense(p["output"], merge(out))


EXAMPLES = (
  MixerExample(
    "hopfield",
    "hopfield",
    plain,
    {"heads": 2, "window": 6, "beta": 1.5, "steps": 2},
    equation="`xi <- X softmax(beta X^T xi)`, then `y_t = V softmax(beta X^T "
    "xi)`",
    transition="none: a cache of `window - 1` tokens",
    paper="Ramsauer et al. 2020, arXiv:2008.02217",
  ),
)
