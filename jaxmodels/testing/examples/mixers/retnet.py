"""RetNet's multi-scale retention."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import (
  dense,
  merge,
  projections,
  rms,
  silu,
)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads, shared = layer.heads, layer.kv_heads or layer.heads
  (q,) = projections(p, x, heads, ("query",))
  k, v = projections(p, x, shared, ("key", "value"))
  if layer.feature_map is not None:
    q, k = np.maximum(q, 0), np.maximum(k, 0)
  half = q.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  # A pair of channels is a complex number; products take the real part.
  q = (q[..., :half] + 1j * q[..., half:]) * turn / np.sqrt(2 * half)
  k = (k[..., :half] + 1j * k[..., half:]) * turn
  out = np.zeros((len(x), heads, v.shape[-1]))
  for h in range(heads):
    g = h * shared // heads
    memory = np.zeros((half, v.shape[-1]), complex)
    for t in range(len(x)):
      memory = (1 - 2.0 ** (-5 - h)) * memory
      memory = memory + np.outer(k[t, g].conj(), v[t, g])
      out[t, h] = (q[t, h] @ memory).real
  out = normalised(p, out, layer)
  if layer.output_gate:
    out = out * silu(dense(p["output_gate"], x))
  return dense(p["output"], out)


def normalised(p, y, layer):
  """The norm of heads [L, H, V], merged."""
  if layer.norm == "rms":
    scale = p["norm"]["scale"] if layer.norm_scale else 1
    return merge(rms(y, scale, layer.norm_epsilon))
  y = y - y.mean(-1, keepdims=True)
  y = merge(rms(y, 1, layer.norm_epsilon))
  return y * p["norm"]["scale"] + p["norm"]["bias"]


EXAMPLES = (
  MixerExample(
    "retnet",
    "retnet",
    plain,
    {"heads": 2},
    equation="`S_t = g_h S_{t-1} + k_t v_t^T`, rotary positions",
    transition="scalar: fixed",
    paper="Sun et al. 2023, arXiv:2307.08621",
  ),
  MixerExample(
    "retnet_options",
    "retnet",
    plain,
    {"kv_heads": 2, "feature_map": "relu", "norm": "rms", "norm_scale": False},
  ),
)
