"""Hopfield layer: associative memory with a continuous state."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense


def _softmax(x):
  powers = np.exp(x - x.max())
  return powers / powers.sum()


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
        state = keys[seen, h].T @ _softmax(beta * keys[seen, h] @ state)
      out[t, h] = values[seen, h].T @ _softmax(beta * keys[seen, h] @ state)
  return dense(p["output"], out.reshape(len(x), -1))


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
