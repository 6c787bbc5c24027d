"""TTT-linear, with its gradient by the chain rule."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, projections, sigmoid


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads, size = layer.heads, layer.mini_batch
  q, k, v = projections(p, x, heads)
  width = q.shape[-1]
  rate = sigmoid(dense(p["rate"], x)) * layer.learning_rate / (width * size)
  out = np.zeros(q.shape)
  for h in range(heads):
    scale, shift = p["norm_scale"][h], p["norm_bias"][h]
    W, b = p["weight"][h], p["bias"][h]
    for t in range(len(x)):
      if t % size == 0:  # Gradients are those at the start of a mini-batch.
        start_W, start_b = W, b
      y, slope = _norm(start_W.T @ k[t, h] + start_b, layer.norm_epsilon)
      error = k[t, h] + scale * y + shift - v[t, h]
      error = rate[t, h] * slope.T @ (scale * error)
      W, b = W - np.outer(k[t, h], error), b - error
      y, _ = _norm(W.T @ q[t, h] + b, layer.norm_epsilon)
      out[t, h] = q[t, h] + scale * y + shift
  out = out.reshape(len(x), -1)
  normed = np.stack([_norm(y, layer.norm_epsilon)[0] for y in out])
  normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
  return dense(p["output"], normed)


def _norm(z, epsilon):
  """A vector of mean 0 and variance 1, and its Jacobian by z."""
  centre = np.eye(len(z)) - 1 / len(z)
  z = centre @ z
  deviation = np.sqrt(np.mean(z * z) + epsilon)
  y = z / deviation
  return y, (np.eye(len(z)) - np.outer(y, y) / len(z)) @ centre / deviation


EXAMPLES = (
  MixerExample(
    "ttt_linear",
    "ttt_linear",
    plain,
    {"heads": 2, "mini_batch": 4, "learning_rate": 40.0},
    equation="`y_t = f(q_t; W_t)`, `f(u; W) = u + LN(W^T u + b)`; `W_t` takes "
    "gradient steps on the squared error of `f(k_t; W)` against `v_t`",
    transition="nonlinear",
    paper="Sun et al. 2024, arXiv:2407.04620",
  ),
)
