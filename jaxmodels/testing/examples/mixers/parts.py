"""Functions that the plain equations share, in NumPy and float64."""

import numpy as np


def sigmoid(x):
  """The logistic function, elementwise."""
  return 1 / (1 + np.exp(-x))


def silu(x):
  """X sigmoid(x)."""
  return x * sigmoid(x)


def softplus(x):
  """log(1 + e^x)."""
  return np.log1p(np.exp(x))


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
