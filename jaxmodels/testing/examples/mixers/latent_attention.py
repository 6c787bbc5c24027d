"""Multi-head latent attention."""

import numpy as np

from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers.parts import dense, merge, rms, softmax


def _rotated(x, layer):
  """The vectors x [L, R] rotated by their positions."""
  if not layer.rotary:
    return x
  half = x.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)
  pairs = (x[:, :half] + 1j * x[:, half:]) * turn
  return np.concatenate([pairs.real, pairs.imag], -1)


def plain(p, x, layer):
  """One document x [L, D], with the keys and values of every head."""
  width = layer.key_width or layer.width // layer.heads
  rest = layer.rotary_width or width // 2
  if layer.query_rank:
    low = dense(p["q_a_proj"], x)
    low = rms(low, p["q_a_layernorm"]["scale"], layer.norm_epsilon)
    q = dense(p["q_b_proj"], low)
  else:
    q = dense(p["q_proj"], x)
  q = q.reshape(len(x), layer.heads, width + rest)
  both = dense(p["kv_a_proj_with_mqa"], x)
  c, shared = both[:, :-rest], _rotated(both[:, -rest:], layer)
  c = rms(c, p["kv_a_layernorm"]["scale"], layer.norm_epsilon)
  made = dense(p["kv_b_proj"], c).reshape(len(x), layer.heads, -1)
  scale = layer.scale or (width + rest) ** -0.5
  out = []
  for h in range(layer.heads):
    k, v = made[:, h, :width], made[:, h, width:]
    moved = _rotated(q[:, h, width:], layer)
    scores = (q[:, h, :width] @ k.T + moved @ shared.T) * scale
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    out.append(softmax(scores) @ v)
  return dense(p["o_proj"], merge(np.stack(out, 1)))


EXAMPLES = (
  MixerExample(
    "latent_attention",
    "latent_attention",
    plain,
    {"heads": 2, "rank": 6, "rotary_width": 4, "max_length": 50},
    equation="`y_t = sum_s softmax_s(q_t . [W_k c_s, r_s]) W_v c_s`",
    transition="none: a cache of `c` and `r` of all tokens",
    paper="DeepSeek-AI 2024, arXiv:2405.04434",
  ),
  MixerExample(
    "latent_attention_options",
    "latent_attention",
    plain,
    {
      "heads": 3,
      "rank": 5,
      "query_rank": 7,
      "key_width": 4,
      "rotary_width": 3,
      "value_width": 6,
      "rotary": False,
      "bias": True,
      "scale": 0.7,
      "max_length": 50,
    },
  ),
)
