"""Softmax attention, full or in a window."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge, rms, sigmoid


def _rotated(x, layer):
  """The first channels of x [L, H, K] rotated by their positions."""
  half = round(layer.rotary_fraction * x.shape[-1]) // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half) / layer.rotary_factor
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  turn = turn * layer.rotary_gain
  pairs = (x[..., :half] + 1j * x[..., half : 2 * half]) * turn
  return np.concatenate([pairs.real, pairs.imag, x[..., 2 * half :]], -1)


def _normed(p, name, x, heads, layer):
  """The projection of x [L, D] to heads [L, H, K], with its norm."""
  y = dense(p[name], x)
  if layer.qk_norm != "whole":
    y = y.reshape(len(x), heads, -1)
  if layer.qk_norm:
    scale = layer.qk_norm_offset + p[f"{name}_norm"]["scale"]
    y = rms(y, scale, layer.norm_epsilon)
  return y.reshape(len(x), heads, -1)


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads, groups = layer.heads, layer.kv_heads or layer.heads
  q = _rotated(_normed(p, "query", x, heads, layer), layer)
  k = _rotated(_normed(p, "key", x, groups, layer), layer)
  v = dense(p["value"], x).reshape(len(x), groups, -1)
  scale = layer.scale or q.shape[-1] ** -0.5
  out = np.zeros((len(x), heads, v.shape[-1]))
  window = layer.window or layer.max_length
  for h in range(heads):
    g = h // (heads // groups)
    for t in range(len(x)):
      seen = slice(max(0, t + 1 - window), t + 1)
      scores = k[seen, g] @ q[t, h] * scale
      if layer.softcap:
        scores = layer.softcap * np.tanh(scores / layer.softcap)
      weights = np.exp(scores)
      sink = np.exp(p["sinks"][h]) if layer.sinks else 0
      out[t, h] = weights / (weights.sum() + sink) @ v[seen, g]
  out = merge(out)
  if layer.gate:
    out = out * sigmoid(dense(p["output_gate"], x))
  return dense(p["output"], out)


EXAMPLES = (
  MixerExample(
    "softmax_attention",
    "softmax_attention",
    plain,
    {"max_length": 50, "kv_heads": 2},
    equation="`y_t = sum_s softmax_s(q_t . k_s) v_s`",
    transition="none: a cache of all tokens",
    paper="Vaswani et al. 2017, arXiv:1706.03762",
  ),
  MixerExample(
    "softmax_attention_options",
    "softmax_attention",
    plain,
    {
      "max_length": 50,
      "kv_heads": 2,
      "qk_norm": "whole",
      "qk_norm_offset": 1.0,
      "gate": "sigmoid",
      "qkv_bias": True,
      "output_bias": True,
      "rotary_gain": 1.2,
      "rotary_fraction": 0.5,
      "rotary_factor": 3.0,
      "scale": 0.8,
      "softcap": 2.0,
      "sinks": True,
    },
  ),
  MixerExample(
    "sliding_attention",
    "sliding_attention",
    plain,
    {"window": 5, "qk_norm": True, "norm_epsilon": 1e-3},
    equation="`softmax_attention` over the last `window` tokens",
    transition="none: a cache of `window - 1` tokens",
    paper="Beltagy et al. 2020, arXiv:2004.05150",
  ),
)
