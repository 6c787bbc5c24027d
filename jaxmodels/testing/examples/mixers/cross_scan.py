"""Mixers for images: a causal mixer along several scans of the grid."""

import numpy as np

from jaxmodels.layers.scan_orders import scan_order
from jaxmodels.mixers.gla import GLA
from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers import gla
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  silu,
  softplus,
)


def depthwise(p, x, columns):
  """A depthwise convolution over an image x [L, D], place by place."""
  kernel, bias = p["kernel"], p.get("bias", 0)
  half = len(kernel) // 2
  image = x.reshape(-1, columns, x.shape[1])
  y = np.zeros(image.shape)
  for i, j in np.ndindex(image.shape[:2]):
    for a in range(-half, half + 1):
      for b in range(-half, half + 1):
        if 0 <= i + a < len(image) and 0 <= j + b < columns:
          y[i, j] += kernel[a + half, b + half] * image[i + a, j + b]
  return y.reshape(x.shape) + bias


def along(x, layer, write):
  """The sum of write(k, x) along each direction k of an image x [L, D]."""
  rows = len(x) // layer.columns
  total = np.zeros(x.shape)
  for k in range(layer.directions):
    order = scan_order(layer.curve, rows, layer.columns, k)
    total[order] += write(k, x[order])
  return total


def numbered(p, k):
  """The parameters of direction k."""
  if isinstance(p, dict):
    return {name: numbered(value, k) for name, value in p.items()}
  return p[k]


def plain(p, x, layer):
  """One image x [L, D], of GLA along each scan."""

  def write(k, x):
    own = p["scans"] if layer.tied else numbered(p["scans"], k)
    return gla.plain(own, x, layer.mixer)

  return along(x, layer, write) / layer.directions


def selective_scan(p, u):
  """A selective scan of u [L, E], token by token."""
  dt = dense(p["step_up"], dense(p["step_down"], u))
  dt, b, c = softplus(dt + p["dt_bias"]), dense(p["B"], u), dense(p["C"], u)
  out, memory = np.zeros(u.shape), np.zeros(p["A_log"].shape)
  for t in range(len(u)):
    memory *= np.exp(-np.exp(p["A_log"]) * dt[t][:, None])
    memory += (dt[t] * u[t])[:, None] * b[t]
    out[t] = memory @ c[t] + p["D"] * u[t]
  return out


def plain_2d(p, x, layer):
  """One image x [L, D], by a selective scan in each direction."""
  z, u = dense(p["gate"], x), dense(p["input"], x)
  u = silu(depthwise(p["convolution"], u, layer.columns))
  y = along(u, layer, lambda k, u: selective_scan(numbered(p["scans"], k), u))
  y = y - y.mean(-1, keepdims=True)
  y = y / np.sqrt(np.mean(y * y, -1, keepdims=True) + layer.norm_epsilon)
  y = y * p["norm"]["scale"] + p["norm"]["bias"]
  return dense(p["output"], y * silu(z))


EXAMPLES = (
  MixerExample(
    "cross_scan",
    "cross_scan",
    plain,
    {"mixer": GLA(16, heads=2, gate_rank=2), "directions": 2},
    equation="the mean of a causal mixer along several scans of an image",
    transition="inherited: its mixer's, in several directions",
    paper="Liu et al. 2024, arXiv:2401.10166",
    causal=False,
  ),
  MixerExample(
    "selective_scan_2d",
    "selective_scan_2d",
    plain_2d,
    {"directions": 2, "expand": 1, "state_width": 4},
    equation="`sum_k unscan_k(S_k(scan_k(u)))`, S_k a selective scan, "
    "u = SiLU(conv(W x)) in 2-D",
    transition="diagonal: in several directions",
    paper="Liu et al. 2024, arXiv:2401.10166",
    causal=False,
  ),
)
