"""Functions that the plain equations share, in NumPy and float64."""

import numpy as np


def sigmoid(x):
  """The logistic function, elementwise."""
  return 1 / (1 + np.exp(-x))


def silu(x):
  """The product x sigmoid(x)."""
  return x * sigmoid(x)


def softplus(x):
  """log(1 + e^x)."""
  return np.log1p(np.exp(x))


def softmax(x):
  """The softmax over the last axis."""
  powers = np.exp(x - x.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def gelu(x):
  """The approximation of GELU by tanh."""
  return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def rms(x, scale, epsilon=1e-6):
  """RMSNorm over the last axis."""
  return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * scale


def unit(x):
  """Vectors of norm 1."""
  return x / np.sqrt(np.sum(x * x, -1, keepdims=True) + 1e-6)


def dense(p, x):
  """A dense map."""
  return x @ p["kernel"] + p.get("bias", 0)


def convolve(p, x, activation=silu):
  """A short causal convolution and an activation, x [L, D]."""
  width = p["kernel"].shape[0]
  padded = np.concatenate([np.zeros((width - 1, x.shape[1])), x])
  y = [(padded[t : t + width] * p["kernel"]).sum(0) for t in range(len(x))]
  return activation(np.stack(y) + p.get("bias", 0))


def split(x, heads):
  """Splits the channels of x [L, F] into heads, [L, H, F / H]."""
  return x.reshape(len(x), heads, -1)


def merge(x):
  """Merges the axes after that of the tokens."""
  return x.reshape(len(x), -1)


def projections(p, x, heads, names=("query", "key", "value")):
  """Dense maps of x to heads, one [L, H, F] per name."""
  return tuple(split(dense(p[name], x), heads) for name in names)


def convolved(p, x, heads, names=("query", "key", "value")):
  """The same with a short convolution and SiLU after each map."""
  return tuple(
    split(convolve(p[f"{name}_convolution"], dense(p[name], x)), heads)
    for name in names
  )


def log_decay(p, x):
  """The product -exp(A_log) softplus(W x + dt_bias), [L, H, 1 or K]."""
  if "decay_down" in p:
    x = dense(p["decay_down"], x)
  step = softplus(dense(p["decay"], x) + p["dt_bias"])
  return -np.exp(p["A_log"])[:, None] * split(step, len(p["A_log"]))


def read_out(p, x, y, layer, gate=silu):
  """Norms the heads y [L, H, V], gates them if p has a gate, and projects."""
  y = merge(rms(y, p["norm"]["scale"], layer.norm_epsilon))
  if "output_gate" in p:
    y = y * gate(dense(p["output_gate"], x))
  return dense(p["output"], y)
