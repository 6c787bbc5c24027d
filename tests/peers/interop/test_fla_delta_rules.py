"""DeltaNet, Gated DeltaNet and KDA against the models of fla."""

import math
from unittest import mock

import pytest

from tests.peers.compare import load
from tests.peers.interop.fla_models import SMALL, check_fla, model_of

pytestmark = pytest.mark.slow

CASES = [
  ("DeltaNet", {"num_heads": 3}),
  (
    "DeltaNet",
    {
      "num_heads": 2,
      "expand_k": 0.5,
      "expand_v": 1.5,
      "use_gate": True,
      "allow_neg_eigval": True,
      "conv_size": 3,
      "norm_eps": 1e-5,
      "tie_word_embeddings": True,
      "num_hidden_layers": 3,
      "intermediate_size": None,
    },
  ),
  (
    "DeltaNet",
    {
      "num_heads": 3,
      "use_beta": False,
      "use_short_conv": False,
      "qk_activation": "elu",
      "qk_norm": "sum",
    },
  ),
  ("DeltaNet", {"num_heads": 3, "qk_activation": "relu"}),
  ("DeltaNet", {"num_heads": 1, "qk_activation": "identity"}),
  ("GatedDeltaNet", {"num_heads": 3, "head_dim": 5}),
  (
    "GatedDeltaNet",
    {
      "num_heads": 2,
      "num_v_heads": 6,
      "head_dim": 8,
      "expand_v": 1.5,
      "allow_neg_eigval": True,
      "output_gate_activation": "sigmoid",
    },
  ),
  (
    "GatedDeltaNet",
    {
      "num_heads": 1,
      "num_v_heads": 2,
      "head_dim": 6,
      "use_gate": False,
      "use_short_conv": False,
    },
  ),
  ("KDA", {"num_heads": 3, "head_dim": 8}),
  (
    "KDA",
    {
      "num_heads": 2,
      "num_v_heads": 4,
      "head_dim": 6,
      "expand_v": 1.5,
      "allow_neg_eigval": True,
      "lower_bound": -5.0,
      "safe_gate": True,
      "tie_word_embeddings": True,
    },
  ),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_logits_and_bytes(name, options, tmp_path):
  check_fla(model_of(name, **(SMALL | options)), tmp_path)


def softmax_attention(q, k, v, causal, window_size):
  """What the function of flash-attention computes, which needs a GPU."""
  torch = load("torch")
  assert causal
  groups = q.shape[2] // k.shape[2]
  k, v = (x.repeat_interleave(groups, 2) for x in (k, v))
  scores = torch.einsum("blhk,bshk->bhls", q, k) / math.sqrt(q.shape[-1])
  ahead = torch.arange(k.shape[1]) - torch.arange(q.shape[1])[:, None]
  hidden = ahead > 0
  if window_size[0] >= 0:
    hidden |= ahead < -window_size[0]
  weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
  return torch.einsum("bhls,bshk->blhk", weights, v)


def test_layers_of_softmax_attention(tmp_path):
  attention = [
    {"layers": [0], "num_heads": 3, "num_kv_heads": 1, "qkv_bias": True}
    | {"window_size": 5, "rope_theta": 500.0},
    {"layers": [2], "num_heads": 2},
  ]
  options = SMALL | {"num_hidden_layers": 3, "attn": attention}
  layers = load("fla.layers.attn")
  with mock.patch.object(layers, "flash_attn_func", softmax_attention):
    theirs = model_of("DeltaNet", num_heads=3, **options)
    check_fla(theirs, tmp_path)
