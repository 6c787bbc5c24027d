"""The mLSTM of xLSTM."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  convolve,
  dense,
  projections,
  sigmoid,
  silu,
)


def plain(p, x, layer):
  """One document x [L, D], token by token; in float64 without a stabiliser."""
  heads = layer.heads
  q, k, v = projections(p, x, heads)
  gates = (
    dense(p[name], x) + p[f"{name}_bias"]
    for name in ("input_gate", "forget_gate")
  )
  if layer.gate_cap is not None:
    gates = (layer.gate_cap * np.tanh(x / layer.gate_cap) for x in gates)
  i, f = gates
  out = _cell(p["norm"], q, k, v, i, f, layer.norm_epsilon, layer.epsilon)
  return dense(p["output"], out * sigmoid(dense(p["output_gate"], x)))


def _cell(norm, q, k, v, i, f, epsilon, added=0.0):
  """The normalised outputs of the cell, [L, H V].

  To the denominator is added `added` times the largest weight of a write so
  far, as in the published code, in which the state before the first token
  counts as one.
  """
  i, f = np.exp(i), sigmoid(f)
  out = np.zeros(v.shape)
  for h in range(v.shape[1]):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    normaliser = np.zeros(k.shape[-1])
    largest = 1.0
    for t in range(len(v)):
      key = k[t, h] / np.sqrt(k.shape[-1])
      memory = f[t, h] * memory + i[t, h] * np.outer(key, v[t, h])
      normaliser = f[t, h] * normaliser + i[t, h] * key
      largest = max(f[t, h] * largest, i[t, h])
      y = memory.T @ q[t, h]
      y = y / (max(abs(normaliser @ q[t, h]), 1) + added * largest)
      y = y - y.mean()
      out[t, h] = y / np.sqrt(np.mean(y * y) + epsilon)
  return out.reshape(len(v), -1) * norm["scale"] + norm.get("bias", 0)


def plain_block(p, x, layer):
  """The same between an up- and a down-projection."""
  z, u = dense(p["gate"], x), dense(p["input"], x)
  c = convolve(p["convolution"], u)
  q, k, v = (
    np.concatenate(
      [
        part @ kernel
        for part, kernel in zip(
          np.split(inputs, len(p[name]), 1), p[name], strict=True
        )
      ],
      1,
    )
    for name, inputs in (("query", c), ("key", c), ("value", u))
  )
  seen = np.concatenate([q, k, v], 1)
  i, f = (
    dense(p[name], seen) + p[f"{name}_bias"]
    for name in ("input_gate", "forget_gate")
  )
  q, k, v = (part.reshape(len(x), layer.heads, -1) for part in (q, k, v))
  h = _cell(p["norm"], q, k, v, i, f, layer.norm_epsilon)
  return dense(p["output"], (h + p["skip"] * c) * silu(z))


EXAMPLES = (
  MixerExample(
    "mlstm",
    "mlstm",
    plain,
    {"heads": 2, "gate_cap": 4.0},
    equation="`S_t = f_t S_{t-1} + i_t k_t v_t^T`, divided by a normaliser, "
    "i_t an exponential",
    transition="scalar",
    paper="Beck et al. 2024, arXiv:2405.04517",
  ),
  MixerExample(
    "mlstm_biases",
    "mlstm",
    plain,
    {"heads": 2, "gate_cap": 4.0, "use_bias": True, "norm_bias": False}
    | {"epsilon": 1e-6},
  ),
  MixerExample(
    "mlstm_block",
    "mlstm_block",
    plain_block,
    # The norm cancels a common factor of all input gates but for its epsilon:
    # with a smaller one the gradient of their bias would be rounding errors.
    {"heads": 2, "norm_epsilon": 1e-2},
    equation="`mlstm` between an up- and a down-projection, after a short "
    "convolution",
    transition="scalar",
    paper="Beck et al. 2024, arXiv:2405.04517",
  ),
)
