"""Softmax attention, full or in a window."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, rms


def plain(p, x, layer):
  """One document x [L, D], token by token."""
  heads, groups = layer.heads, layer.kv_heads or layer.heads
  q = dense(p["query"], x).reshape(len(x), heads, -1)
  k = dense(p["key"], x).reshape(len(x), groups, -1)
  v = dense(p["value"], x).reshape(len(x), groups, -1)
  if layer.qk_norm:
    q = rms(q, p["query_norm"]["scale"], layer.norm_epsilon)
    k = rms(k, p["key_norm"]["scale"], layer.norm_epsilon)
  half = q.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  # A pair of channels is a complex number; products take the real part.
  q = (q[..., :half] + 1j * q[..., half:]) * turn
  k = (k[..., :half] + 1j * k[..., half:]) * turn
  out = np.zeros((len(x), heads, v.shape[-1]))
  window = layer.window or layer.max_length
  for h in range(heads):
    g = h // (heads // groups)
    for t in range(len(x)):
      seen = slice(max(0, t + 1 - window), t + 1)
      scores = (k[seen, g].conj() @ q[t, h]).real / np.sqrt(2 * half)
      weights = np.exp(scores - scores.max())
      out[t, h] = weights / weights.sum() @ v[seen, g]
  return dense(p["output"], out.reshape(len(x), -1))


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
    "sliding_attention",
    "sliding_attention",
    plain,
    {"window": 5, "qk_norm": True, "norm_epsilon": 1e-3},
    equation="the same over the last `window` tokens",
    transition="none: a cache of `window - 1` tokens",
    paper="Beltagy et al. 2020, arXiv:2004.05150",
  ),
)
